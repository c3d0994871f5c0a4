#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash_index.h"
#include "tokenizer/piece.h"
#include "vga/token.h"

namespace vga {

/// What we need of SentencePiece's ModelProto, validated: whatever file it came from, the library
/// can load serialize() of it and encode any text without reading outside its tables (0.1.97, which
/// Debian ships, checks little of that itself).
struct SentencePieceModel {
  /// Numbered as in the proto; word and char models are refused.
  enum class Algorithm : uint32_t { unigram = 1, bpe = 2 };
  /// Before each stretch between added tokens, or those that do not start with a space, or only the
  /// first of a text if it does not.
  enum class Prefix { stretch, word, text };
  struct Piece {
    std::string text;  // UTF-8, not empty, unique, "▁" for space
    float score = 0;
    PieceType type = PieceType::normal;
  };

  Algorithm algorithm = Algorithm::unigram;
  std::vector<Piece> pieces;
  bool byte_fallback = false;
  std::optional<Token> bos;
  std::optional<Token> eos;
  std::optional<Token> pad;
  std::vector<Token> ends;  // that end a text beside eos; known to GGUF files alone
  bool add_bos = false;
  std::string unk_surface = " \u2047 ";  // what the unknown piece decodes to

  std::string charsmap;  // compiled normalization rules; empty is none
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool treat_whitespace_as_suffix = false;
  /// User-defined pieces from this one on are added tokens: looked for in the text as it is, which
  /// they part. Those before are SentencePiece's own, looked for where the text was normalized.
  size_t first_added = SIZE_MAX;
  /// Where the prefix is put: SentencePiece itself knows only the first.
  Prefix prefix = Prefix::stretch;
  bool is_added(size_t piece) const {
    return piece >= first_added && pieces[piece].type == PieceType::user_defined;
  }

  // What follows from the fields above; validate() sets it.
  /// The most bytes that normalization can make of one byte of text.
  size_t max_expansion = 3;
  /// Whether the words of a text are independent of each other, so that it can be cut into parts.
  bool words_are_independent = false;
  HashIndex by_text;  // of pieces

  /// The piece with this text, of whatever type; -1 if there is none.
  Token find(std::string_view text) const {
    return by_text.find(text, [this](int32_t i) { return text_of(i); });
  }
  std::string_view text_of(int32_t piece) const { return pieces[static_cast<size_t>(piece)].text; }
};

/// The byte that "<0x0A>" stands for; nullopt for anything but SentencePiece's exact spelling.
std::optional<char> byte_of_piece(std::string_view text);

/// Cuts a text whose words are independent, so that the pieces of the parts, one part after the
/// other, are those of the whole. A part has `size` bytes and goes on to the next place between
/// two words; it may be much longer where there is none. `text` becomes what follows the part.
std::string_view take_part(std::string_view& text, size_t size, const SentencePieceModel& model);

/// From the bytes of a `tokenizer.model`. Fields that we do not know are dropped. `where` names the
/// file in messages.
SentencePieceModel parse_sentencepiece(std::span<const std::byte> proto, std::string_view where);

/// A ModelProto of exactly the fields above.
std::string serialize(const SentencePieceModel& model);

/// The one gate that every model passes, wherever it came from. An Error that begins with `where`.
void validate(SentencePieceModel& model, const std::string& where);

}  // namespace vga
