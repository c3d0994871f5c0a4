/// Any text as a chat template: read, and run with a conversation. Only Faults may come out, and no
/// character of a message may be taken for one of the template's.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "chat/evaluator.h"
#include "chat/parser.h"

namespace {

using namespace vga::jinja;

// A character that no template has but by an escape.
constexpr std::string_view mark = "\uE001";

Value message(Heap& heap, std::string_view role, const std::string& content) {
  return heap.dict({{heap.text("role"), heap.text(role)},
                    {heap.text("content"), heap.text(MarkedText(content, true))}});
}

void run_template(std::string_view source) {
  const auto program = parse(source);
  Heap heap(50'000);
  const std::string words = " \uE001<think>a\uE001</think>\n\uE001Bc ";
  const Value messages =
      heap.list({message(heap, "system", std::string(mark)), message(heap, "user", words),
                 message(heap, "assistant", words), message(heap, "user", "")});
  const MarkedText text = run(*program, heap,
                              {{"messages", messages},
                               {"add_generation_prompt", true},
                               {"bos_token", heap.text("<s>")},
                               {"eos_token", heap.text("</s>")},
                               {"tools", None{}}},
                              1'700'000'000);
  if (source.find('\\') != std::string_view::npos || source.find(mark) != std::string_view::npos) {
    return;
  }
  size_t begin = 0;
  for (const auto& part : text.runs()) {
    const std::string_view chars = text.chars().substr(begin, part.end - begin);
    if (!part.from_message && chars.find(mark) != std::string_view::npos) std::abort();
    begin = part.end;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    run_template({reinterpret_cast<const char*>(data), size});
  } catch (const Fault&) {
  }
  return 0;
}
