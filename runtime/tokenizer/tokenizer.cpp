#include "vga/tokenizer.h"

#include <algorithm>
#include <array>
#include <climits>
#include <functional>

#include <sentencepiece_processor.h>

#include "base/hash_index.h"
#include "base/text.h"
#include "gguf/gguf.h"
#include "tokenizer/byte_bpe.h"
#include "tokenizer/sentencepiece_bpe.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/vocabulary.h"
#include "vga/error.h"

namespace vga {
namespace {

/// SentencePiece needs some 200 bytes for each byte of what it encodes at once.
constexpr size_t part_bytes = 1 << 16;

std::string with_spaces(std::string_view piece) {
  std::string text;
  for (size_t at = piece.find(space_symbol); at != std::string_view::npos;
       at = piece.find(space_symbol)) {
    text += piece.substr(0, at);
    text += ' ';
    piece.remove_prefix(at + space_symbol.size());
  }
  text += piece;
  return text;
}

}  // namespace

/// What both kinds of tokenizers have; each kind adds its way from text to tokens and back.
struct Tokenizer::Impl {
  struct SentencePiece;
  struct ByteLevel;

  virtual ~Impl() = default;

  /// Appends the tokens of a text without marks; `at_start` tells that no mark stands before it.
  virtual void encode_text(std::string_view text, bool at_start, std::vector<Token>& out) const = 0;
  /// Whether `token` may be a part of a character that its neighbours complete.
  virtual bool is_bytes(Token token) const = 0;
  /// Appends what `token`, not a control token, stands for. While `at_start` is true a leading
  /// space is dropped; it says afterwards whether another one would be.
  virtual void append_text(Token token, bool& at_start, std::string& text) const = 0;

  /// `token` as an index into the tables; an Error if it is out of range.
  size_t at(Token token) const;
  bool is_control(Token token) const { return types[at(token)] == PieceType::control; }
  /// Finds the marks, unused tokens and those that end a text: eos, `ends_` and by their names.
  /// Of the user-defined tokens those from `first_mark` on are marks.
  void index(size_t first_mark, std::vector<Token> ends_);
  /// Length of the longest mark that `text` starts with, and its token; 0 if none. Control tokens
  /// are marks only within the first `trusted` bytes.
  std::pair<size_t, Token> mark_at(std::string_view text, size_t trusted) const;

  // By token; the derived class fills them and holds what the texts view.
  std::vector<std::string_view> texts;
  std::string_view text_of(Token token) const { return texts[static_cast<size_t>(token)]; }
  std::vector<PieceType> types;
  std::optional<Token> bos;
  std::optional<Token> eos;
  bool add_bos = false;
  std::vector<Token> ends;    // sorted
  std::vector<Token> unused;  // sorted

  // Marks are tokens that are looked for in a text before all else: the control tokens, and the
  // user-defined ones where the algorithm does not see to them itself.
  HashIndex marks;
  std::array<std::vector<size_t>, 256> mark_lengths;  // by first byte; distinct, longest first
  bool has_user_marks = false;
};

size_t Tokenizer::Impl::at(Token token) const {
  if (token < 0 || static_cast<size_t>(token) >= texts.size()) {
    throw Error("token", "wanted 0 to " + std::to_string(texts.size() - 1) + ", found " +
                             std::to_string(token));
  }
  return static_cast<size_t>(token);
}

void Tokenizer::Impl::index(size_t first_mark, std::vector<Token> ends_) {
  ends = std::move(ends_);
  if (eos) ends.push_back(*eos);
  std::vector<Token> found;
  for (size_t i = 0; i < types.size(); ++i) {
    const bool control = types[i] == PieceType::control;
    if (types[i] == PieceType::unused) unused.push_back(static_cast<Token>(i));
    if (!control && (types[i] != PieceType::user_defined || i < first_mark)) continue;
    const auto token = static_cast<Token>(i);
    found.push_back(token);
    mark_lengths[static_cast<unsigned char>(texts[i][0])].push_back(texts[i].size());
    has_user_marks |= !control;
    if (control && (is_end_of_turn_name(texts[i]) || is_control_end_name(texts[i])))
      ends.push_back(token);
  }
  marks = HashIndex(found.size());
  for (const Token token : found)
    marks.insert(text_of(token), token, [&](Token t) { return text_of(t); });
  for (std::vector<size_t>& lengths : mark_lengths) {
    std::ranges::sort(lengths, std::greater());
    lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  }
  std::ranges::sort(ends);
}

std::pair<size_t, Token> Tokenizer::Impl::mark_at(std::string_view text, size_t trusted) const {
  for (const size_t length : mark_lengths[static_cast<unsigned char>(text[0])]) {
    if (length > text.size()) continue;
    const Token token = marks.find(text.substr(0, length), [&](Token t) { return text_of(t); });
    if (token < 0) continue;
    if (length <= trusted || !is_control(token)) return {length, token};
  }
  return {0, 0};
}

struct Tokenizer::Impl::SentencePiece final : Impl {
  SentencePiece(SentencePieceModel model_, std::string_view where);

  void encode_text(std::string_view text, bool at_start, std::vector<Token>& out) const override;
  bool is_bytes(Token token) const override { return types[at(token)] == PieceType::byte; }
  void append_text(Token token, bool& at_start, std::string& text) const override;

  bool wants_prefix(std::string_view text, bool at_start) const;
  void ask_library(std::string_view text, std::vector<Token>& out) const;

  SentencePieceModel model;
  std::optional<SentencePieceBpe> bpe;              // of `model`, where that fits
  sentencepiece::SentencePieceProcessor processor;  // else
};

Tokenizer::Impl::SentencePiece::SentencePiece(SentencePieceModel model_, std::string_view where)
    : model(std::move(model_)) {
  texts.reserve(model.pieces.size());
  types.reserve(model.pieces.size());
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    texts.push_back(piece.text);
    types.push_back(piece.type);
  }
  bos = model.bos;
  eos = model.eos;
  add_bos = model.add_bos;
  index(model.first_added, model.ends);
  if (SentencePieceBpe::fits(model)) {
    bpe.emplace(model);
    return;
  }
  const std::string proto = serialize(model);
  if (proto.size() > INT_MAX) throw Error(where, "is too large for SentencePiece");
  std::string problem;
  try {
    const auto status = processor.LoadFromSerializedProto(proto);
    if (!status.ok()) problem = status.ToString();
  } catch (const std::exception& e) {  // from the tries it builds
    problem = e.what();
  }
  if (!problem.empty()) throw Error(where, "SentencePiece refuses it: " + problem);
}

bool Tokenizer::Impl::SentencePiece::wants_prefix(std::string_view text, bool at_start) const {
  using Prefix = SentencePieceModel::Prefix;
  if (!model.add_dummy_prefix) return false;
  if (model.prefix == Prefix::stretch) return true;
  const bool has_space = text.starts_with(' ') || text.starts_with(space_symbol);
  return !has_space && (at_start || model.prefix == Prefix::word);
}

void Tokenizer::Impl::SentencePiece::encode_text(std::string_view text, bool at_start,
                                                 std::vector<Token>& out) const {
  // Unigram's sums over a word are exact enough, those over a long text are not.
  const size_t size = model.algorithm == SentencePieceModel::Algorithm::bpe ? part_bytes : 1;
  bool prefix = wants_prefix(text, at_start);
  while (!text.empty()) {
    const std::string_view part = model.words_are_independent
                                      ? take_part(text, size, model)
                                      : std::exchange(text, std::string_view());
    // The library counts bytes of the normalized text, and a prefix of its own, in an int.
    const size_t limit = INT_MAX / model.max_expansion - 16;
    if (part.size() > limit) {
      throw Error("text", "wanted at most " + std::to_string(limit) + " bytes, found " +
                              std::to_string(part.size()));
    }
    if (bpe) {
      bpe->encode(part, prefix, out);
    } else if (prefix && model.prefix != SentencePieceModel::Prefix::stretch) {
      ask_library(std::string(1, ' ').append(part), out);
    } else {
      ask_library(part, out);
    }
    prefix = model.add_dummy_prefix;  // take_part() cut a space off for it
  }
}

void Tokenizer::Impl::SentencePiece::ask_library(std::string_view text,
                                                 std::vector<Token>& out) const {
  std::vector<int> ids;
  const auto status = processor.Encode(text, &ids);
  if (!status.ok()) throw Error("text", "SentencePiece cannot encode it: " + status.ToString());
  out.insert(out.end(), ids.begin(), ids.end());
}

void Tokenizer::Impl::SentencePiece::append_text(Token token, bool& at_start,
                                                 std::string& text) const {
  const size_t i = at(token);
  if (types[i] == PieceType::byte) {
    text += *byte_of_piece(texts[i]);
  } else if (types[i] == PieceType::unknown) {
    text += model.unk_surface;
  } else {
    std::string_view rest = texts[i];
    const bool drops_space = model.add_dummy_prefix || model.remove_extra_whitespaces;
    if (at_start && drops_space && rest.starts_with(space_symbol)) {
      rest.remove_prefix(space_symbol.size());
      // The prefix is one space; where extra spaces are removed, all leading ones go.
      at_start = model.remove_extra_whitespaces;
    }
    text += with_spaces(rest);
  }
}

struct Tokenizer::Impl::ByteLevel final : Impl {
  ByteLevel(const Gguf& gguf, std::string_view pre) : bpe(gguf, pre) {
    texts = bpe.texts();
    types = bpe.types();
    bos = bpe.bos();
    eos = bpe.eos();
    add_bos = bpe.adds_bos();
    index(0, bpe.ends());
  }

  void encode_text(std::string_view text, bool, std::vector<Token>& out) const override {
    bpe.encode(text, out);
  }
  bool is_bytes(Token token) const override { return !is_control(token); }
  void append_text(Token token, bool&, std::string& text) const override {
    bpe.append_bytes(token, text);
  }

  ByteBpe bpe;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_gguf(const Gguf& gguf, std::string_view pre) {
  constexpr std::string_view key = vocabulary_key::model;
  const std::string_view kind = gguf.required(key, gguf.string(key));
  if (kind == "gpt2") return Tokenizer(std::make_unique<Impl::ByteLevel>(gguf, pre));
  if (!pre.empty()) {
    throw Error(key_in(gguf, key),
                "'" + std::string(kind) +
                    "' cuts no text into words; only 'gpt2' takes the pre-tokenizer '" +
                    std::string(pre) + "'");
  }
  if (kind == "llama" || kind == "t5") {
    return Tokenizer(std::make_unique<Impl::SentencePiece>(read_tokenizer(gguf), gguf.file_name()));
  }
  throw Error(key_in(gguf, key),
              "'" + std::string(kind) + "' is not supported, wanted 'llama', 't5' or 'gpt2'");
}

Tokenizer Tokenizer::from_sentencepiece(std::span<const std::byte> model, std::string_view where) {
  return Tokenizer(std::make_unique<Impl::SentencePiece>(parse_sentencepiece(model, where), where));
}

size_t Tokenizer::vocab_size() const {
  return impl_->texts.size();
}
std::optional<Token> Tokenizer::bos() const {
  return impl_->bos;
}
std::optional<Token> Tokenizer::eos() const {
  return impl_->eos;
}
bool Tokenizer::adds_bos() const {
  return impl_->add_bos && impl_->bos;
}
bool Tokenizer::is_end(Token token) const {
  return std::ranges::binary_search(impl_->ends, token);
}
std::span<const Token> Tokenizer::unused() const {
  return impl_->unused;
}
bool Tokenizer::is_control(Token token) const {
  return impl_->is_control(token);
}
std::string_view Tokenizer::piece(Token token) const {
  return impl_->texts[impl_->at(token)];
}

std::optional<Token> Tokenizer::find(std::string_view piece) const {
  const auto found = std::ranges::find(impl_->texts, piece);
  if (found == impl_->texts.end()) return std::nullopt;
  return static_cast<Token>(found - impl_->texts.begin());
}

std::vector<Token> Tokenizer::encode(std::string_view text, Special special) const {
  if (special == Special::parse || impl_->has_user_marks) {
    return encode(std::vector<Part>{{std::string(text), special}});
  }
  std::vector<Token> tokens;
  impl_->encode_text(text, true, tokens);
  return tokens;
}

std::vector<Token> Tokenizer::encode(std::span<const Part> parts) const {
  std::string whole;
  for (const Part& part : parts) whole += part.text;
  const std::string_view text = whole;
  std::vector<Token> tokens;
  size_t begin = 0;  // of the text since the last mark
  size_t at = 0;
  size_t end = 0;  // of the part
  for (const Part& part : parts) {
    end += part.text.size();
    while (at < end) {
      const size_t trusted = part.special == Special::parse ? end - at : 0;
      const auto [length, token] = impl_->mark_at(text.substr(at), trusted);
      if (length == 0) {
        ++at;
        continue;
      }
      impl_->encode_text(text.substr(begin, at - begin), begin == 0, tokens);
      tokens.push_back(token);
      at += length;
      begin = at;
    }
  }
  impl_->encode_text(text.substr(begin), begin == 0, tokens);
  return tokens;
}

std::vector<Token> Tokenizer::encode_prompt(std::string_view text, Special special) const {
  std::vector<Token> tokens = encode(text, special);
  if (adds_bos()) tokens.insert(tokens.begin(), *bos());
  return tokens;
}

std::string Tokenizer::decode(std::span<const Token> tokens) const {
  StreamDecoder decoder(*this);
  std::string text;
  for (const Token token : tokens) text += decoder.add(token);
  return text + decoder.finish();
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool continues)
    : tokenizer_(&tokenizer), at_start_(!continues) {}

void StreamDecoder::flush(std::string& text, bool everything) {
  // SentencePiece, too, replaces bytes one by one.
  pending_.erase(0, append_repaired(text, pending_, everything));
}

std::string StreamDecoder::add(Token token) {
  const Tokenizer::Impl& impl = *tokenizer_->impl_;
  std::string text;
  if (!impl.is_bytes(token)) {
    flush(text, true);
    if (!text.empty()) at_start_ = false;
  }
  if (impl.is_control(token)) return text;
  impl.append_text(token, at_start_, pending_);
  flush(text, false);
  if (!text.empty()) at_start_ = false;
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  flush(text, true);
  return text;
}

}  // namespace vga
