/// Any bytes as the body of a request to the server. What comes out is in range, or an ApiError of
/// the client's kind, whose JSON can be written; and a small vocabulary makes a prompt of it.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "gguf_image.h"
#include "scratch_file.h"
#include "server/api_error.h"
#include "server/chat_prompt.h"
#include "server/request.h"
#include "vga/vga.h"

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

const Tokenizer& tokenizer() {
  static const Model model =
      Model::load(test::scratch_file(test::talking_hybrid_model().bytes()), {.device = "cpu"});
  return model.tokenizer();
}

void check_tokens(std::span<const Token> tokens) {
  constexpr Token vocab = 48;
  for (const Token token : tokens) check(token >= 0 && token < vocab);
}

/// A window leaves turns out, and tells how much they were.
void check_prompt(const std::vector<ChatMessage>& messages) {
  // One whose system prompt stands alone, and one that puts it into the first user's words.
  static const std::array formats = {*ChatTemplate::named("chatml"), *ChatTemplate::named("gemma")};
  for (const ChatTemplate& format : formats) {
    try {
      const ChatPrompt whole = make_chat_prompt(format, messages, tokenizer(), 0, std::nullopt);
      check_tokens(whole.tokens);
      check(whole.forgotten == 0);
      const ChatPrompt view = make_chat_prompt(format, messages, tokenizer(), 0, 40);
      check_tokens(view.tokens);
      check(view.tokens.size() + view.forgotten == whole.tokens.size());
    } catch (const Error&) {
      // The template refuses the conversation.
    }
  }
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
    check_prompt(request.messages);
  });
  read_all(body, [](std::string_view text) {
    const CompletionRequest request = read_text_request(text, {});
    check_common(request);
    check(!request.prompts.empty() && request.prompts.size() * request.n <= max_choices);
    for (const auto& prompt : request.prompts) {
      const auto* words = std::get_if<std::string>(&prompt);
      if (words != nullptr) check_tokens(tokenizer().encode_prompt(*words));
    }
  });
  read_all(body, [](std::string_view text) { read_tokenize_request(text); });
  read_all(body, [](std::string_view text) { read_detokenize_request(text); });
  return 0;
}
