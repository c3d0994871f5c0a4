#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "vga/token.h"

namespace vga {

/// What a vocabulary entry is to its tokenizer. Numbered as in SentencePiece's proto and in
/// `tokenizer.ggml.token_type`, which agree.
enum class PieceType : uint32_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6,
};

/// SentencePiece's spelling of a space.
constexpr std::string_view space_symbol = "\u2581";

/// Longer pieces are refused: building SentencePiece's tries recurses once per byte.
constexpr size_t max_piece_bytes = 4096;

/// What is wrong with `text` as a piece of any vocabulary, "is empty"; nothing if it is fine.
std::string piece_problem(std::string_view text);

/// The start of a message about an entry: "token 7 'text' ", a long text cut.
std::string entry_name(std::string_view what, size_t index, std::string_view text);

/// The type with this number, if there is one.
std::optional<PieceType> to_piece_type(int64_t number);

/// A token id from a file of `vocab` tokens; an Error naming `where` and `name`, the field or key
/// that holds it, if it is out of range.
Token checked_token(uint64_t id, size_t vocab, std::string_view where, std::string_view name);

/// Whether a piece is a template marker by its look, such as <|im_start|>.
bool looks_like_control(std::string_view piece);

/// The token after which a chat turn is over has one of these names, whatever the file calls it.
bool is_end_of_turn_name(std::string_view piece);

/// The same for names that may as well be text, such as </s>, which is an HTML tag to Gemma and
/// Qwen: they are ends where they are control tokens.
bool is_control_end_name(std::string_view piece);

}  // namespace vga
