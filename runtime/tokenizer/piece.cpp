#include "tokenizer/piece.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "vga/error.h"

namespace vga {

std::string piece_problem(std::string_view text) {
  if (text.empty()) return "is empty";
  if (text.size() > max_piece_bytes) {
    return "has " + std::to_string(text.size()) + " bytes, wanted at most " +
           std::to_string(max_piece_bytes);
  }
  if (!is_utf8(text)) return "is not UTF-8";
  return {};
}

std::string entry_name(std::string_view what, size_t index, std::string_view text) {
  return std::string(what) + " " + std::to_string(index) + " '" + std::string(text.substr(0, 40)) +
         "' ";
}

std::optional<PieceType> to_piece_type(int64_t number) {
  if (number < 1 || number > 6) return std::nullopt;
  return static_cast<PieceType>(number);
}

Token checked_token(uint64_t id, size_t vocab, std::string_view where, std::string_view name) {
  if (id >= vocab) {
    throw Error(where, std::string(name) + ": wanted a token id below " + std::to_string(vocab) +
                           ", found " + std::to_string(id));
  }
  return static_cast<Token>(id);
}

bool looks_like_control(std::string_view piece) {
  return piece.size() > 4 && piece.starts_with("<|") && piece.ends_with("|>");
}

bool is_end_of_turn_name(std::string_view piece) {
  constexpr std::array<std::string_view, 10> names = {
      "<|im_end|>", "<|eot_id|>",      "<|eom_id|>",    "<|end|>",       "<|return|>",
      "<|call|>",   "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<turn|>"};
  return std::ranges::find(names, piece) != names.end();
}

bool is_control_end_name(std::string_view piece) {
  constexpr std::array<std::string_view, 6> names = {"</s>",  "<eos>", "<EOT>",
                                                     "[EOT]", "[EOS]", "<end_of_utterance>"};
  return std::ranges::find(names, piece) != names.end();
}

}  // namespace vga
