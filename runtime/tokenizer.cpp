#include "tokenizer.h"

#include <algorithm>
#include <bitset>
#include <climits>
#include <functional>

#include <sentencepiece_processor.h>

#include "byte_bpe.h"
#include "error.h"
#include "flat_map.h"
#include "sentencepiece_model.h"
#include "text.h"

namespace vga {
namespace {

using Piece = SentencePieceModel::Piece;
using PieceType = SentencePieceModel::PieceType;

constexpr std::string_view model_key = "tokenizer.ggml.model";

constexpr std::string_view space_symbol = "\u2581";
constexpr std::string_view replacement_character = "\uFFFD";

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

/// The value of a byte piece, "<0x0A>", already validated.
char byte_of(std::string_view piece) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'A' + 10; };
  return static_cast<char>(digit(piece[3]) * 16 + digit(piece[4]));
}

}  // namespace

/// What both kinds of tokenizers have; each kind adds its way from text to tokens and back.
struct Tokenizer::Impl {
  struct SentencePiece;
  struct ByteLevel;

  virtual ~Impl() = default;

  /// Appends the tokens of a text without marks.
  virtual void encode_text(std::string_view text, std::vector<Token>& out) const = 0;
  /// Whether `token` may be a part of a character that its neighbours complete.
  virtual bool is_bytes(Token token) const = 0;
  /// Appends what `token`, not a control token, stands for. While `at_start` is true a leading
  /// space is dropped; it says afterwards whether another one would be.
  virtual void append_text(Token token, bool& at_start, std::string& text) const = 0;

  const Piece& at(Token token) const;
  bool is_control(Token token) const { return at(token).type == PieceType::control; }
  /// Fills the tables from `pieces` and adds the end-of-turn tokens to `ends`.
  void index(bool user_defined_are_marks);
  /// Length of the longest mark that `text` starts with, and its token; 0 if none. Control tokens
  /// are marks only within the first `trusted` bytes.
  std::pair<size_t, Token> mark_at(std::string_view text, size_t trusted) const;

  std::span<const Piece> pieces;  // of the model in the derived class
  std::optional<Token> bos;
  std::optional<Token> eos;
  bool add_bos = false;
  std::vector<Token> ends;

  FlatMap<std::string_view> by_text;  // keys are pieces' texts
  // Marks are tokens that are looked for in a text before all else: the control tokens, and the
  // user-defined ones where the algorithm does not see to them itself.
  FlatMap<std::string_view> marks;
  std::vector<size_t> mark_lengths;  // distinct, longest first
  std::bitset<256> mark_starts;      // first bytes
  bool has_user_marks = false;
};

const Piece& Tokenizer::Impl::at(Token token) const {
  if (token < 0 || static_cast<size_t>(token) >= pieces.size()) {
    throw Error("token", "wanted 0 to " + std::to_string(pieces.size() - 1) + ", found " +
                             std::to_string(token));
  }
  return pieces[static_cast<size_t>(token)];
}

void Tokenizer::Impl::index(bool user_defined_are_marks) {
  by_text = FlatMap<std::string_view>(pieces.size());
  const auto is_mark = [&](const Piece& piece) {
    return piece.type == PieceType::control ||
           (user_defined_are_marks && piece.type == PieceType::user_defined);
  };
  marks = FlatMap<std::string_view>(static_cast<size_t>(std::ranges::count_if(pieces, is_mark)));
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    const auto token = static_cast<Token>(i);
    by_text.insert(piece.text, token);
    if (!is_mark(piece)) continue;
    const bool control = piece.type == PieceType::control;
    marks.insert(piece.text, token);
    mark_lengths.push_back(piece.text.size());
    mark_starts.set(static_cast<unsigned char>(piece.text[0]));
    has_user_marks |= !control;
    if (control && is_end_of_turn_name(piece.text)) ends.push_back(token);
  }
  std::ranges::sort(mark_lengths, std::greater());
  mark_lengths.erase(std::unique(mark_lengths.begin(), mark_lengths.end()), mark_lengths.end());
}

std::pair<size_t, Token> Tokenizer::Impl::mark_at(std::string_view text, size_t trusted) const {
  if (!mark_starts.test(static_cast<unsigned char>(text[0]))) return {0, 0};
  for (const size_t length : mark_lengths) {
    if (length > text.size()) continue;
    const Token token = marks.find(text.substr(0, length));
    if (token < 0) continue;
    if (length <= trusted || !is_control(token)) return {length, token};
  }
  return {0, 0};
}

struct Tokenizer::Impl::SentencePiece final : Impl {
  SentencePiece(SentencePieceModel model_, std::string_view where);

  void encode_text(std::string_view text, std::vector<Token>& out) const override;
  bool is_bytes(Token token) const override { return at(token).type == PieceType::byte; }
  void append_text(Token token, bool& at_start, std::string& text) const override;

  SentencePieceModel model;
  sentencepiece::SentencePieceProcessor processor;
};

Tokenizer::Impl::SentencePiece::SentencePiece(SentencePieceModel model_, std::string_view where)
    : model(std::move(model_)) {
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

  pieces = model.pieces;
  bos = model.bos;
  eos = model.eos;
  add_bos = model.add_bos;
  index(false);
  if (model.eos) ends.push_back(*model.eos);
  if (model.eot) ends.push_back(*model.eot);
}

void Tokenizer::Impl::SentencePiece::encode_text(std::string_view text,
                                                 std::vector<Token>& out) const {
  // The library counts bytes of the normalized text, and a prefix of its own, in an int.
  const size_t limit = INT_MAX / model.max_expansion - 16;
  if (text.size() > limit) {
    throw Error("text", "wanted at most " + std::to_string(limit) + " bytes, found " +
                            std::to_string(text.size()));
  }
  std::vector<int> ids;
  const auto status = processor.Encode(text, &ids);
  if (!status.ok()) throw Error("text", "SentencePiece cannot encode it: " + status.ToString());
  out.insert(out.end(), ids.begin(), ids.end());
}

void Tokenizer::Impl::SentencePiece::append_text(Token token, bool& at_start,
                                                 std::string& text) const {
  const Piece& piece = at(token);
  if (piece.type == PieceType::byte) {
    text += byte_of(piece.text);
  } else if (piece.type == PieceType::unknown) {
    text += model.unk_surface;
  } else {
    std::string_view rest = piece.text;
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
  explicit ByteLevel(const Gguf& gguf) : bpe(gguf) {
    pieces = bpe.pieces();
    bos = bpe.bos();
    eos = bpe.eos();
    add_bos = bpe.adds_bos();
    index(true);
    if (bpe.eos()) ends.push_back(*bpe.eos());
    if (bpe.eot()) ends.push_back(*bpe.eot());
  }

  void encode_text(std::string_view text, std::vector<Token>& out) const override {
    bpe.encode(text, out);
  }
  bool is_bytes(Token token) const override { return !is_control(token); }
  void append_text(Token token, bool&, std::string& text) const override {
    text += bpe.bytes(token);
  }

  ByteBpe bpe;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_gguf(const Gguf& gguf) {
  const std::string_view kind = gguf.required(model_key, gguf.string(model_key));
  if (kind == "gpt2") return Tokenizer(std::make_unique<Impl::ByteLevel>(gguf));
  if (kind == "llama" || kind == "t5") {
    return Tokenizer(std::make_unique<Impl::SentencePiece>(read_tokenizer(gguf), gguf.file_name()));
  }
  throw Error(gguf.file_name(), "key '" + std::string(model_key) + "': '" + std::string(kind) +
                                    "' is not supported, wanted 'llama', 't5' or 'gpt2'");
}

Tokenizer Tokenizer::from_sentencepiece(std::span<const std::byte> model, std::string_view where) {
  return Tokenizer(std::make_unique<Impl::SentencePiece>(parse_sentencepiece(model, where), where));
}

size_t Tokenizer::vocab_size() const {
  return impl_->pieces.size();
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
  return std::ranges::find(impl_->ends, token) != impl_->ends.end();
}
bool Tokenizer::is_control(Token token) const {
  return impl_->is_control(token);
}
std::string_view Tokenizer::piece(Token token) const {
  return impl_->at(token).text;
}

std::optional<Token> Tokenizer::find(std::string_view piece) const {
  const Token token = impl_->by_text.find(piece);
  if (token < 0) return std::nullopt;
  return token;
}

std::vector<Token> Tokenizer::encode(std::string_view text, Special special) const {
  if (special == Special::parse || impl_->has_user_marks) {
    return encode(std::vector<Part>{{std::string(text), special}});
  }
  std::vector<Token> tokens;
  impl_->encode_text(text, tokens);
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
      impl_->encode_text(text.substr(begin, at - begin), tokens);
      tokens.push_back(token);
      at += length;
      begin = at;
    }
  }
  impl_->encode_text(text.substr(begin), tokens);
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
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const int length = utf8_length(rest);
    if (length == 0 && !everything) break;
    // SentencePiece replaces each byte that no character starts with, one by one.
    text += length > 0 ? rest.substr(0, static_cast<size_t>(length)) : replacement_character;
    rest.remove_prefix(length > 0 ? static_cast<size_t>(length) : 1);
  }
  pending_.erase(0, pending_.size() - rest.size());
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
