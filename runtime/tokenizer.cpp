#include "tokenizer.h"

#include <algorithm>
#include <bitset>
#include <climits>
#include <functional>
#include <unordered_map>

#include <sentencepiece_processor.h>

#include "error.h"
#include "sentencepiece_model.h"
#include "text.h"

namespace vga {
namespace {

using PieceType = SentencePieceModel::PieceType;

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

struct Tokenizer::Impl {
  Impl(SentencePieceModel model_, std::string_view where);

  const SentencePieceModel::Piece& at(Token token) const;
  bool is_control(Token token) const { return at(token).type == PieceType::control; }
  /// Length of the longest control piece that `text` starts with, and its token; 0 if none.
  std::pair<size_t, Token> control_at(std::string_view text) const;
  /// Appends the tokens of plain text.
  void encode(std::string_view text, std::vector<Token>& out) const;

  SentencePieceModel model;
  sentencepiece::SentencePieceProcessor processor;
  std::unordered_map<std::string_view, Token> by_text;  // keys are model.pieces' texts
  std::vector<size_t> control_lengths;                  // distinct, longest first
  std::bitset<256> control_starts;                      // first bytes of control pieces
  std::vector<Token> ends;
};

Tokenizer::Impl::Impl(SentencePieceModel model_, std::string_view where)
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

  by_text.reserve(model.pieces.size());
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const SentencePieceModel::Piece& piece = model.pieces[i];
    const auto token = static_cast<Token>(i);
    by_text.emplace(piece.text, token);
    if (piece.type != PieceType::control) continue;
    control_lengths.push_back(piece.text.size());
    control_starts.set(static_cast<unsigned char>(piece.text[0]));
    if (is_end_of_turn_name(piece.text)) ends.push_back(token);
  }
  std::ranges::sort(control_lengths, std::greater());
  control_lengths.erase(std::unique(control_lengths.begin(), control_lengths.end()),
                        control_lengths.end());
  if (model.eos) ends.push_back(*model.eos);
  if (model.eot) ends.push_back(*model.eot);
}

const SentencePieceModel::Piece& Tokenizer::Impl::at(Token token) const {
  if (token < 0 || static_cast<size_t>(token) >= model.pieces.size()) {
    throw Error("token", "wanted 0 to " + std::to_string(model.pieces.size() - 1) + ", found " +
                             std::to_string(token));
  }
  return model.pieces[static_cast<size_t>(token)];
}

std::pair<size_t, Token> Tokenizer::Impl::control_at(std::string_view text) const {
  if (!control_starts.test(static_cast<unsigned char>(text[0]))) return {0, 0};
  for (const size_t length : control_lengths) {
    if (length > text.size()) continue;
    const auto found = by_text.find(text.substr(0, length));
    if (found != by_text.end() && is_control(found->second)) return {length, found->second};
  }
  return {0, 0};
}

void Tokenizer::Impl::encode(std::string_view text, std::vector<Token>& out) const {
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

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_gguf(const Gguf& gguf) {
  return Tokenizer(std::make_unique<Impl>(read_tokenizer(gguf), gguf.file_name()));
}

Tokenizer Tokenizer::from_sentencepiece(std::span<const std::byte> model, std::string_view where) {
  return Tokenizer(std::make_unique<Impl>(parse_sentencepiece(model, where), where));
}

size_t Tokenizer::vocab_size() const {
  return impl_->model.pieces.size();
}
std::optional<Token> Tokenizer::bos() const {
  return impl_->model.bos;
}
std::optional<Token> Tokenizer::eos() const {
  return impl_->model.eos;
}
bool Tokenizer::adds_bos() const {
  return impl_->model.add_bos && impl_->model.bos;
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
  const auto found = impl_->by_text.find(piece);
  if (found == impl_->by_text.end()) return std::nullopt;
  return found->second;
}

std::vector<Token> Tokenizer::encode(std::string_view text, Special special) const {
  if (special == Special::parse) return encode(std::vector<Part>{{std::string(text), special}});
  std::vector<Token> tokens;
  impl_->encode(text, tokens);
  return tokens;
}

std::vector<Token> Tokenizer::encode(std::span<const Part> parts) const {
  std::vector<Token> tokens;
  std::string run;  // text since the last control token
  for (const Part& part : parts) {
    if (part.special == Special::as_text) {
      run += part.text;
      continue;
    }
    for (std::string_view rest = part.text; !rest.empty();) {
      const auto [length, token] = impl_->control_at(rest);
      if (length == 0) {
        run += rest[0];
        rest.remove_prefix(1);
        continue;
      }
      impl_->encode(run, tokens);
      run.clear();
      tokens.push_back(token);
      rest.remove_prefix(length);
    }
  }
  impl_->encode(run, tokens);
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
  const SentencePieceModel& model = tokenizer_->impl_->model;
  const SentencePieceModel::Piece& piece = tokenizer_->impl_->at(token);
  std::string text;
  if (piece.type == PieceType::byte) {
    pending_ += byte_of(piece.text);
    flush(text, false);
    if (!text.empty()) at_start_ = false;
    return text;
  }
  flush(text, true);
  if (!text.empty()) at_start_ = false;
  if (piece.type == PieceType::control) return text;
  if (piece.type == PieceType::unknown) {
    text += model.unk_surface;
  } else {
    std::string_view rest = piece.text;
    const bool drops_space = model.add_dummy_prefix || model.remove_extra_whitespaces;
    if (at_start_ && drops_space && rest.starts_with(space_symbol)) {
      rest.remove_prefix(space_symbol.size());
      // The prefix is one space; where extra spaces are removed, all leading ones go.
      at_start_ = model.remove_extra_whitespaces;
    }
    text += with_spaces(rest);
  }
  if (!text.empty()) at_start_ = false;
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  flush(text, true);
  return text;
}

}  // namespace vga
