#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/sentencepiece_model.h"
#include "vga/token.h"

namespace vga {

/// SentencePiece's BPE where normalization is no more than spaces spelled "▁": of all neighbours
/// that are a piece together, those with the best score are joined, until none are left. Ids equal
/// the library's, which takes four times as long to load 262,144 pieces. Immutable, usable from
/// many threads.
class SentencePieceBpe {
 public:
  /// Whether `model` is of this kind; the library is there for all others.
  static bool fits(const SentencePieceModel& model);

  /// Of a valid model that fits(), which must live as long and stay where it is.
  explicit SentencePieceBpe(const SentencePieceModel& model);

  /// Appends the tokens of `text`, at most 2^31 bytes, behind a space if `prefix`; a byte that no
  /// UTF-8 character starts with is read as U+FFFD.
  void encode(std::string_view text, bool prefix, std::vector<Token>& out) const;

 private:
  /// A stretch of the text that is one piece so far, in a list of its neighbours.
  struct Symbol {
    std::string_view text;  // empty if it was joined to the one before
    uint32_t previous;
    uint32_t next;
  };
  /// Two neighbours that are a piece together.
  struct Join {
    float score;
    uint32_t left;
    uint32_t right;
    size_t size;  // of both, to tell whether they still are what they were
  };
  struct Parts {
    std::string_view left;
    std::string_view right;
  };
  /// What unused pieces were joined of.
  using UnusedParts = std::unordered_map<std::string_view, Parts>;

  const SentencePieceModel::Piece& piece(Token token) const {
    return model_->pieces[static_cast<size_t>(token)];
  }
  /// The piece with this text that words are made of, -1 if there is none.
  Token find(std::string_view text) const;
  /// Joins until none is left; the symbols that remain are linked from the first on.
  void join(std::vector<Symbol>& symbols, UnusedParts& unused) const;
  void emit(std::string_view symbol, const UnusedParts& unused, bool& after_unknown,
            std::vector<Token>& out) const;

  const SentencePieceModel* model_;
  Token unknown_ = 0;
  std::vector<Token> byte_tokens_;  // (256), empty without byte fallback
};

}  // namespace vga
