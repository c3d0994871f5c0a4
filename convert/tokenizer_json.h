#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf_writer.h"
#include "tokenizer/piece.h"
#include "tokenizer/vocabulary.h"
#include "vga/token.h"

namespace vga {

/// The vocabulary of a Hugging Face tokenizer.json as the arrays of a GGUF file.
struct TokenizerJson {
  struct Piece {
    std::string text;
    float score = 0;  // none in byte-level BPE
    PieceType type = PieceType::normal;
  };

  std::string model;            // "gpt2": byte-level BPE; "llama": SentencePiece's BPE; "t5": its
                                // unigram
  std::string pre = "default";  // of byte-level BPE: how text is cut into words
  bool nfc = false;             // of byte-level BPE: text is normalized before
  std::vector<Piece> pieces;    // by token; gaps between ids are filled as pad() does
  std::vector<std::string> merges;  // of byte-level BPE: "left right"
  std::string charsmap;             // of unigram: SentencePiece's compiled normalization rules
  std::string space_prefix;  // where a space is put before text; empty is nowhere, else as in
                             // `tokenizer.ggml.space_prefix`
  bool removes_extra_spaces = false;
  std::optional<Token> unknown;
  std::optional<Token> bos;        // that is put before a text
  std::optional<Token> eos;        // and behind it
  std::vector<std::string> notes;  // what a person should know of it
};

/// Byte-level BPE, and BPE and unigram as converted from SentencePiece, with their added tokens.
/// What the arrays cannot say (another kind of model, normalizer or pre-tokenizer, regular
/// expressions that are not known, merges that no scores stand for) is an Error naming `where`, the
/// key and what it found.
TokenizerJson parse_tokenizer_json(std::span<const std::byte> text, std::string_view where);

/// The tokens that it puts around a text.
SpecialTokens special_tokens_of(const TokenizerJson& tokenizer);

/// Adds unused tokens, "[PAD151665]", until there is one for each row of an embedding of `vocab`.
void pad(TokenizerJson& tokenizer, size_t vocab);

/// Writes the `tokenizer.ggml.*` arrays; not the tokens that begin and end texts.
void write_tokenizer(const TokenizerJson& tokenizer, GgufWriter& writer);

}  // namespace vga
