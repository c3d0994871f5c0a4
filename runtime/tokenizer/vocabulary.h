#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"
#include "gguf/gguf_writer.h"
#include "tokenizer/piece.h"
#include "tokenizer/sentencepiece_model.h"
#include "vga/token.h"

namespace vga {

/// llama.cpp's keys of what is read in more than one place.
namespace vocabulary_key {
constexpr std::string_view model = "tokenizer.ggml.model";
constexpr std::string_view pre = "tokenizer.ggml.pre";
constexpr std::string_view tokens = "tokenizer.ggml.tokens";
constexpr std::string_view types = "tokenizer.ggml.token_type";
constexpr std::string_view merges = "tokenizer.ggml.merges";
constexpr std::string_view scores = "tokenizer.ggml.scores";
constexpr std::string_view unknown = "tokenizer.ggml.unknown_token_id";
constexpr std::string_view add_space_prefix = "tokenizer.ggml.add_space_prefix";
constexpr std::string_view extra_whitespaces = "tokenizer.ggml.remove_extra_whitespaces";
constexpr std::string_view charsmap = "tokenizer.ggml.precompiled_charsmap";
constexpr std::string_view normalizer = "tokenizer.ggml.normalizer";  // ours: "none" or "nfc"
constexpr std::string_view ends = "tokenizer.ggml.eos_token_ids";     // ours: all that end a text
/// Ours, beside add_space_prefix, whose meaning it narrows: "stretch" puts the space before each
/// stretch of text between added tokens, as absent; "word" only before those that do not start with
/// one; "text" only before the first, and not before a space either.
constexpr std::string_view space_prefix = "tokenizer.ggml.space_prefix";
}  // namespace vocabulary_key

/// The score of pieces that no text is joined to.
constexpr float unused_score = -1e9F;

/// What the `tokenizer.ggml.*` keys say of any kind of tokenizer.
struct Vocabulary {
  std::string_view model;               // "llama", "t5", "gpt2"
  std::vector<std::string_view> texts;  // by token, at least one; views of the file
  std::vector<PieceType> types;         // by token
  std::optional<Token> bos;
  std::optional<Token> eos;
  std::optional<Token> unknown;
  std::vector<Token> ends;  // eos, those of a turn and of a message, and those of our own key
  std::optional<bool> adds_bos;
};

/// Tokens that are template markers by their look (<|im_start|>) but called user-defined, and those
/// that end a text whatever they are called, count as control tokens: text from users cannot forge
/// them. Without types all tokens are normal. Texts are not checked. An Error naming file and key.
Vocabulary read_vocabulary(const Gguf& gguf);

/// The file and the key, for messages.
std::string key_in(const Gguf& gguf, std::string_view key);

/// The tokens that begin and end texts, for write_special_tokens().
struct SpecialTokens {
  std::optional<Token> bos;
  std::optional<Token> eos;
  std::optional<Token> eot;  // end of a chat turn
  std::optional<Token> eom;  // end of a message, after which the same turn goes on
  std::vector<Token> ends;   // all that end an answer, `eos` among them; empty: not known
  bool add_bos = false;      // in front of a text
  bool add_eos = false;      // behind it
};

/// What a tokenizer.model says of itself.
SpecialTokens special_tokens_of(const SentencePieceModel& model);

/// Writes llama.cpp's keys and, as it has none for more than three ends,
/// `tokenizer.ggml.eos_token_ids`, an array of integers.
void write_special_tokens(const SpecialTokens& special, GgufWriter& writer);

/// Writes the arrays of `tokenizer.ggml.*`, and `original`, the bytes of the tokenizer.model, as
/// `tokenizer.sentencepiece.model`. write_special_tokens() does the rest.
void write_tokenizer(const SentencePieceModel& model, std::span<const std::byte> original,
                     GgufWriter& writer);

/// Reads what these wrote. A file from elsewhere has only the `tokenizer.ggml.*`
/// arrays: then the model is rebuilt from them, with llama.cpp's defaults for absent keys.
SentencePieceModel read_tokenizer(const Gguf& gguf);

}  // namespace vga
