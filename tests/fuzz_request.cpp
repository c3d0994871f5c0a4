/// Any bytes as the body of a request to the server. What comes out is in range, or an ApiError of
/// the client's kind, whose JSON can be written.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "server/api_error.h"
#include "server/request.h"

namespace {

using namespace vga;

void check(bool good) {
  if (!good) std::abort();
}

void check_common(const CompletionRequest& request) {
  validate(request.sampler);
  check(request.n >= 1 && request.n <= max_choices);
  check(!request.max_tokens || *request.max_tokens >= 1);
  check(request.stop.size() <= 16);
  for (const std::string& stop : request.stop) check(!stop.empty());
  check(request.logprobs || request.top_logprobs == 0);
}

void read_all(std::string_view body, auto&& read) {
  try {
    read(body);
  } catch (const ApiError& error) {
    check(error.status >= 400 && error.status < 500);
    check(error_body(error).ends_with('}'));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  read_all(body, [](std::string_view text) {
    const CompletionRequest request = read_chat_request(text, {});
    check_common(request);
    check(!request.messages.empty());
  });
  read_all(body, [](std::string_view text) {
    const CompletionRequest request = read_text_request(text, {});
    check_common(request);
    check(!request.prompts.empty() && request.prompts.size() * request.n <= max_choices);
  });
  read_all(body, [](std::string_view text) { read_tokenize_request(text); });
  read_all(body, [](std::string_view text) { read_detokenize_request(text); });
  return 0;
}
