#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flat_map.h"
#include "gguf.h"
#include "pretokenizer.h"
#include "sentencepiece_model.h"
#include "token.h"

namespace vga {

/// Byte-level BPE, `tokenizer.ggml.model` "gpt2": a text is cut into words, a word is its UTF-8
/// bytes, and the merge that comes first in the file is applied until none is left. Tokens are
/// stored in GPT-2's spelling, a printable character for every byte ("Ġ" for a space). Immutable,
/// usable from many threads.
class ByteBpe {
 public:
  using Piece = SentencePieceModel::Piece;

  /// Reads and checks the `tokenizer.ggml.*` keys. An Error naming file, key and entry. Tokens that
  /// are template markers by their look, such as <|im_start|>, count as control tokens, as in
  /// read_tokenizer(); so do tokens of type unknown.
  explicit ByteBpe(const Gguf& gguf);
  ByteBpe(const ByteBpe&) = delete;
  ByteBpe& operator=(const ByteBpe&) = delete;

  const std::vector<Piece>& pieces() const { return pieces_; }
  std::optional<Token> bos() const { return bos_; }
  std::optional<Token> eos() const { return eos_; }
  std::optional<Token> eot() const { return eot_; }
  bool adds_bos() const { return adds_bos_; }

  /// What `token` stands for: any bytes. Empty for control and unused tokens.
  std::string_view bytes(Token token) const { return bytes_[static_cast<size_t>(token)]; }

  /// Appends the tokens of `text`, which is taken as it is: control and user-defined tokens are not
  /// looked for. A byte that no UTF-8 character starts with is read as U+FFFD, as SentencePiece and
  /// llama.cpp do. A byte for which the vocabulary has no token is left out, as the Hugging Face
  /// library does: SmolLM2 lacks 21 that hardly occur, some control characters among them.
  void encode(std::string_view text, std::vector<Token>& out) const;

 private:
  struct Merge {
    Token left;
    Token right;
    Token merged;
  };
  struct Symbol {
    Token token;  // -1 if merged into the one before
    uint32_t previous;
    uint32_t next;
  };
  /// Memory that one word leaves to the next.
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;
  };

  void read_tokens(const Gguf& gguf);
  void read_merges(const Gguf& gguf);
  void merge(std::string_view word, Scratch& scratch, std::vector<Token>& out) const;

  std::vector<Piece> pieces_;
  std::vector<std::string> bytes_;        // by token
  FlatMap<std::string_view> by_bytes_;    // keys are bytes_' texts
  std::array<Token, 256> byte_tokens_{};  // -1 where there is none
  std::vector<Merge> merges_;             // the first goes first
  FlatMap<uint64_t> merge_of_pair_;       // index into merges_
  std::optional<Pretokenizer> pretokenizer_;
  std::optional<Token> bos_;
  std::optional<Token> eos_;
  std::optional<Token> eot_;
  bool adds_bos_ = false;
};

}  // namespace vga
