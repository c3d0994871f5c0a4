#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash_index.h"
#include "gguf/gguf.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/vocabulary.h"
#include "vga/token.h"

namespace vga {

/// What is wrong with a vocabulary of byte-level BPE in which `has` finds no token for a byte that
/// no text can do without (what ASCII prints, tab, line break); empty if it has all of them.
std::string missing_byte_problem(const std::function<bool(std::string_view)>& has);

/// Byte-level BPE, `tokenizer.ggml.model` "gpt2": a text is cut into words, a word is its UTF-8
/// bytes, and the merge that comes first in the file is applied until none is left. Tokens are
/// stored in GPT-2's spelling, a printable character for every byte ("Ġ" for a space). Immutable,
/// usable from many threads.
class ByteBpe {
 public:
  /// Reads and checks the `tokenizer.ggml.*` keys. An Error naming file, key and entry. Tokens of
  /// type unknown count as control tokens.
  /// `pre`, if not empty, names the pre-tokenizer instead of the file.
  ByteBpe(const Gguf& gguf, std::string_view pre);
  ByteBpe(const ByteBpe&) = delete;
  ByteBpe& operator=(const ByteBpe&) = delete;

  /// By token; texts as the file spells them.
  const std::vector<std::string_view>& texts() const { return texts_; }
  const std::vector<PieceType>& types() const { return types_; }
  std::optional<Token> bos() const { return bos_; }
  std::optional<Token> eos() const { return eos_; }
  const std::vector<Token>& ends() const { return ends_; }
  bool adds_bos() const { return adds_bos_; }

  /// Appends what `token` stands for: any bytes. None for control and unused tokens.
  void append_bytes(Token token, std::string& out) const;

  /// Appends the tokens of `text`, normalized where the tokenizer does: control and user-defined
  /// tokens are not looked for. A byte that no UTF-8 character starts with is read as U+FFFD, as
  /// SentencePiece and llama.cpp do. A byte for which the vocabulary has no token is left out, as
  /// the Hugging Face library does: SmolLM2 lacks 21 that hardly occur, some control characters
  /// among them.
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
    std::string spelling;
  };

  void read_tokens(const Gguf& gguf, const Vocabulary& vocabulary);
  void read_merges(const Gguf& gguf);
  /// Whether words are made of it.
  bool is_part(size_t token) const;
  /// The token with this text that words are made of, -1 if there is none.
  Token find(std::string_view text) const;
  /// What merge_of_pair_ finds a merge by.
  uint64_t pair_of(int32_t merge) const;
  void merge(std::string_view word, Scratch& scratch, std::vector<Token>& out) const;

  std::string storage_;                  // all texts, end to end
  std::vector<std::string_view> texts_;  // by token, in storage_
  std::vector<PieceType> types_;
  size_t max_text_ = 0;                   // bytes of the longest
  HashIndex by_text_;                     // of texts_
  std::array<Token, 256> byte_tokens_{};  // -1 where there is none
  std::vector<Merge> merges_;             // the first goes first
  HashIndex merge_of_pair_;               // index into merges_
  std::optional<Pretokenizer> pretokenizer_;
  std::optional<Token> bos_;
  std::optional<Token> eos_;
  std::vector<Token> ends_;
  bool adds_bos_ = false;
  bool normalizes_ = false;  // to NFC
};

}  // namespace vga
