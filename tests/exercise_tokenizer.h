#pragma once

#include <string_view>
#include <vector>

#include "vga/tokenizer.h"

namespace vga::test {

/// Encodes and decodes `text` in every way, and every token there is.
inline void exercise(const Tokenizer& tokenizer, std::string_view text) {
  for (const auto special : {Tokenizer::Special::as_text, Tokenizer::Special::parse}) {
    tokenizer.decode(tokenizer.encode(text, special));
  }
  std::vector<Token> all(tokenizer.vocab_size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<Token>(i);
  tokenizer.decode(all);
}

}  // namespace vga::test
