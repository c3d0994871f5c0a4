/// Any bytes as a tokenizer.model, and a text for it: loaded, encoded, decoded. Only vga::Error may
/// come out, of a library that trusts its models.

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "exercise_tokenizer.h"
#include "vga/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The last bytes are the text, the rest is the model; a fixed text follows it.
  const std::span<const uint8_t> input(data, size);
  const size_t text_size = size == 0 ? 0 : std::min<size_t>(input.back() % 64, size);
  std::string text(input.end() - static_cast<std::ptrdiff_t>(text_size), input.end());
  text += " Once <s>  upon\xFF\n\xE2\x96\x81\xF0\x9F\xA6\x8A aaaa";
  try {
    const auto tokenizer = vga::Tokenizer::from_sentencepiece(
        std::as_bytes(input.first(size - text_size)), "fuzz.model");
    vga::test::exercise(tokenizer, text);
  } catch (const vga::Error&) {
  }
  return 0;
}
