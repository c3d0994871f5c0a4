#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf.h"
#include "token.h"

namespace vga {

/// What we need of SentencePiece's ModelProto, validated: whatever file it came from, the library
/// can load serialize() of it and encode any text without reading outside its tables (0.1.97, which
/// Debian ships, checks little of that itself).
struct SentencePieceModel {
  /// Numbered as in the proto; word and char models are refused.
  enum class Algorithm : uint32_t { unigram = 1, bpe = 2 };
  /// Numbered as in the proto and in `tokenizer.ggml.token_type`, which agree.
  enum class PieceType : uint32_t {
    normal = 1,
    unknown = 2,
    control = 3,
    user_defined = 4,
    unused = 5,
    byte = 6,
  };
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
  std::optional<Token> eot;  // end of a chat turn; known to GGUF files alone
  bool add_bos = false;
  std::string unk_surface = " \u2047 ";  // what the unknown piece decodes to

  std::string charsmap;  // compiled normalization rules; empty is none
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool treat_whitespace_as_suffix = false;
  /// The most bytes that normalization can make of one byte of text.
  size_t max_expansion = 3;
};

/// Longer pieces are refused: building the library's tries recurses once per byte.
constexpr size_t max_piece_bytes = 4096;

/// Whether a piece is a template marker by its look, such as <|im_start|>. Files often declare
/// these user-defined; they count as control tokens, so that text from users cannot forge them.
bool looks_like_control(std::string_view piece);

/// The token after which a chat turn is over has one of these names when it is a control token.
bool is_end_of_turn_name(std::string_view piece);

/// From the bytes of a `tokenizer.model`. Fields that we do not know are dropped. `where` names the
/// file in messages.
SentencePieceModel parse_sentencepiece(std::span<const std::byte> proto, std::string_view where);

/// A ModelProto of exactly the fields above.
std::string serialize(const SentencePieceModel& model);

/// Writes llama.cpp's `tokenizer.ggml.*` keys, and `original`, the bytes of the tokenizer.model, as
/// `tokenizer.sentencepiece.model`.
void write_tokenizer(const SentencePieceModel& model, std::span<const std::byte> original,
                     GgufWriter& writer);

/// Reads what write_tokenizer() wrote. A file from elsewhere has only the `tokenizer.ggml.*`
/// arrays: then the model is rebuilt from them, with llama.cpp's defaults for absent keys, and
/// tokens that are template markers by their look, such as <|im_start|>, count as control tokens,
/// so that text from users cannot forge them.
SentencePieceModel read_tokenizer(const Gguf& gguf);

}  // namespace vga
