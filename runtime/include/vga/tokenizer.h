#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vga/token.h"

namespace vga {

class Gguf;

/// Text to tokens and back. Immutable, shared by all sessions of a model, usable from many threads.
/// For SentencePiece's own models ids equal those of `spm_encode` on any text;
/// byte_bpe.h does it for GGUF files with byte-level BPE, and ids equal those of the Hugging Face
/// tokenizer. Where a file has only arrays, its added tokens are found as that tokenizer does.
class Tokenizer {
 public:
  /// How `<s>`, `</s>` and other control tokens that are spelled out in a text are read.
  enum class Special {
    as_text,  // as the characters they are: what users type never becomes a control token
    parse,    // as the tokens they name, the longest first: for templates and trusted prompts
  };
  /// A stretch of a text that is not read in the same way throughout: a chat template's markers
  /// around a user's words.
  struct Part {
    std::string text;
    Special special = Special::as_text;
  };

  /// Uses the SentencePiece model stored in the file, else what the standard `tokenizer.ggml.*`
  /// arrays describe. `pre`, if not empty, names the pre-tokenizer of byte-level BPE instead of the
  /// file. An Error naming file and key if there is no usable tokenizer.
  static Tokenizer from_gguf(const Gguf& gguf, std::string_view pre = {});
  /// From the bytes of a `tokenizer.model`; `where` names the file in messages.
  static Tokenizer from_sentencepiece(std::span<const std::byte> model, std::string_view where);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  size_t vocab_size() const;
  std::optional<Token> bos() const;
  std::optional<Token> eos() const;
  /// Whether a text given to the model starts with bos().
  bool adds_bos() const;
  /// Whether `token` ends a text, which is where generating stops: eos(), what the file calls the
  /// end of a turn or of a message, all in its `tokenizer.ggml.eos_token_ids`, and those that end
  /// one by their name, such as <|im_end|>.
  bool is_end(Token token) const;
  /// Tokens that only fill up the vocabulary, ascending: no text has them, and their logits mean
  /// nothing. Session::sample() never chooses them.
  std::span<const Token> unused() const;
  /// Control tokens have no text of their own.
  bool is_control(Token token) const;
  /// The token whose piece is exactly `piece` ("<|im_end|>").
  std::optional<Token> find(std::string_view piece) const;
  /// The piece as stored in the vocabulary, "▁" for space ("Ġ" in byte-level BPE);
  /// 0 <= token < vocab_size().
  std::string_view piece(Token token) const;

  /// Without bos() and eos(). Each stretch of text between two control tokens is encoded as a text
  /// of its own, so it starts with the vocabulary's space prefix if there is one, as in llama.cpp.
  /// User-defined tokens are found in any text. Bytes that are not UTF-8 are read as U+FFFD.
  /// Thread-safe. An Error if there are 700 MB that SentencePiece would have to encode at once.
  std::vector<Token> encode(std::string_view text, Special special = Special::as_text) const;
  /// The parts as one text: a word may well join the end of one part and the start of the next, but
  /// control tokens are only found inside a part that is to be parsed.
  std::vector<Token> encode(std::span<const Part> parts) const;
  /// encode() behind bos() if adds_bos(): what a session is fed first.
  std::vector<Token> encode_prompt(std::string_view text, Special special = Special::as_text) const;
  /// The whole text, equal to SentencePiece's own decoding; byte-level BPE keeps every space. An
  /// Error for a token out of range.
  std::string decode(std::span<const Token> tokens) const;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Turns tokens into text one at a time without ever handing out half a UTF-8 character: the pieces
/// it returns, and what finish() adds, concatenate to decode() of the same tokens.
class StreamDecoder {
 public:
  /// `continues` is true when the tokens follow a text already shown: then the leading space of the
  /// first piece is kept, where decode() of a new text drops it.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool continues = false);

  /// The text that `token` completes; empty while a character is still incomplete. An Error for a
  /// token out of range.
  std::string add(Token token);
  /// What was held back, bytes that never became a character replaced by U+FFFD.
  std::string finish();

 private:
  /// Moves complete characters from pending_ to `text`; all of pending_ when `everything`.
  void flush(std::string& text, bool everything);

  const Tokenizer* tokenizer_;
  bool at_start_;        // a leading space is still to be dropped
  std::string pending_;  // bytes of a character that is not complete
};

}  // namespace vga
