#include "tokenizer/sentencepiece_model.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "base/text.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/protobuf.h"
#include "vga/config.h"
#include "vga/error.h"

namespace vga {
namespace {

using Algorithm = SentencePieceModel::Algorithm;
using Piece = SentencePieceModel::Piece;

// The size of the library's own table for the results of one look-up among the user defined pieces.
// It reads past its end when there are more.
constexpr size_t max_nested_user_defined = 64;

// Field numbers of sentencepiece_model.proto.
namespace field {
enum Model : uint32_t { pieces = 1, trainer = 2, normalizer = 3, denormalizer = 5 };
enum Piece : uint32_t { text = 1, score = 2, type = 3 };
enum Trainer : uint32_t {
  model_type = 3,
  whitespace_as_suffix = 24,
  byte_fallback = 35,
  unk_id = 40,
  bos_id = 41,
  eos_id = 42,
  pad_id = 43,
  unk_surface = 44,
};
enum Normalizer : uint32_t {
  charsmap = 2,
  add_dummy_prefix = 3,
  remove_extra_whitespaces = 4,
  escape_whitespaces = 5,
};
}  // namespace field

/// `sorted` holds the user defined pieces in order: prefixes come right before what they begin.
void check_nesting(const std::vector<std::string_view>& sorted, const std::string& where) {
  std::vector<std::string_view> prefixes;
  for (const std::string_view text : sorted) {
    while (!prefixes.empty() && !text.starts_with(prefixes.back())) prefixes.pop_back();
    prefixes.push_back(text);
    if (prefixes.size() > max_nested_user_defined) {
      throw Error(where, "more than " + std::to_string(max_nested_user_defined) +
                             " user defined pieces begin like '" + std::string(text) + "'");
    }
  }
}

/// Fills by_text on the way: with 262,144 pieces it takes as long as all else that is done to them.
void check_pieces(SentencePieceModel& model, const std::string& where) {
  if (model.pieces.empty()) throw Error(where, "has no pieces");
  if (model.pieces.size() > max_vocab) {
    throw Error(where, "wanted at most " + std::to_string(max_vocab) + " pieces, found " +
                           std::to_string(model.pieces.size()));
  }
  model.by_text = HashIndex(model.pieces.size());
  const auto text_of = [&](int32_t i) { return model.text_of(i); };
  std::vector<std::string_view> user_defined;
  size_t n_unknown = 0;
  size_t n_bytes = 0;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const Piece& piece = model.pieces[i];
    const auto fail = [&](const std::string& what) {
      throw Error(where, entry_name("piece", i, piece.text) + what);
    };
    if (const std::string problem = piece_problem(piece.text); !problem.empty()) fail(problem);
    if (piece.text.find('\0') != std::string::npos) fail("holds a NUL character");
    if (!std::isfinite(piece.score)) fail("has a score that is not a finite number");
    if (!model.by_text.insert(std::string_view(piece.text), static_cast<int32_t>(i), text_of)) {
      fail("is there twice");
    }
    switch (piece.type) {
      case PieceType::unknown:
        ++n_unknown;
        break;
      case PieceType::byte:
        ++n_bytes;
        if (!byte_of_piece(piece.text)) fail("is no byte from <0x00> to <0xFF>");
        if (!model.byte_fallback) fail("is a byte, but byte_fallback is off");
        break;
      case PieceType::control:
        // The library looks up single characters among the control pieces too.
        if (utf8_length(piece.text) == static_cast<int>(piece.text.size())) {
          fail("is a control token of one character, which any text may hold");
        }
        break;
      case PieceType::user_defined:
        if (!model.is_added(i)) user_defined.push_back(piece.text);
        break;
      case PieceType::normal:
      case PieceType::unused:
        break;
    }
  }
  if (n_unknown != 1) {
    throw Error(where,
                "wanted one piece for unknown text, of type 2, found " + std::to_string(n_unknown));
  }
  if (model.byte_fallback && n_bytes != 256) {
    throw Error(where, "byte_fallback wants 256 byte pieces, found " + std::to_string(n_bytes));
  }
  std::ranges::sort(user_defined);
  check_nesting(user_defined, where);
}

/// BPE merges within a word if no piece spans two. Unigram adds up scores along the whole text, in
/// floats: their rounding is a part of what the library computes, but not of what others do whose
/// files have arrays alone.
bool has_independent_words(const SentencePieceModel& model) {
  const bool sums_words = model.algorithm == Algorithm::bpe || model.first_added == 0;
  const bool plain = sums_words && model.charsmap.empty() && model.escape_whitespaces &&
                     !model.treat_whitespace_as_suffix;
  // The space that begins a part must be neither lost nor doubled.
  const bool keeps_space = model.add_dummy_prefix || !model.remove_extra_whitespaces;
  if (!plain || !keeps_space) return false;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    if (model.is_added(i)) continue;  // it parts the text before
    std::string_view text = model.pieces[i].text;
    while (text.starts_with(space_symbol)) text.remove_prefix(space_symbol.size());
    if (text.find(space_symbol) != std::string_view::npos) return false;
    if (text.find(' ') != std::string_view::npos) return false;
  }
  return true;
}

/// Whether `text` can be cut at `at`: before a space behind a character that is none.
bool is_between_words(std::string_view text, size_t at) {
  if (at == 0 || at + 1 >= text.size() || text[at] != ' ') return false;
  const std::string_view before = text.substr(0, at);
  return before.back() != ' ' && !before.ends_with(space_symbol);
}

Piece parse_piece(std::string_view bytes, const std::string& where) {
  Piece piece;
  ProtoReader in(bytes, where);
  while (in.next()) {
    switch (in.field()) {
      case field::text:
        piece.text = in.bytes();
        break;
      case field::score:
        piece.score = in.real();
        break;
      case field::type:
        if (const auto type = to_piece_type(in.int32())) {
          piece.type = *type;
        } else {
          throw Error(where, "wanted a type from 1 to 6, found " + std::to_string(in.int32()));
        }
        break;
      default:
        break;
    }
  }
  return piece;
}

/// The trainer's ids before they can be checked against the number of pieces; -1 is none.
struct TrainerIds {
  int32_t unk = 0;
  int32_t bos = 1;
  int32_t eos = 2;
  int32_t pad = -1;
};

void parse_trainer(std::string_view bytes, const std::string& where, SentencePieceModel& model,
                   TrainerIds& ids) {
  ProtoReader in(bytes, where + ": trainer_spec");
  while (in.next()) {
    switch (in.field()) {
      case field::model_type:
        if (in.number() != 1 && in.number() != 2) {
          throw Error(in.where(), "model_type: wanted 1 (unigram) or 2 (BPE), found " +
                                      std::to_string(in.number()) +
                                      "; word and char models are not supported");
        }
        model.algorithm = static_cast<Algorithm>(in.number());
        break;
      case field::whitespace_as_suffix:
        model.treat_whitespace_as_suffix = in.boolean();
        break;
      case field::byte_fallback:
        model.byte_fallback = in.boolean();
        break;
      case field::unk_id:
        ids.unk = in.int32();
        break;
      case field::bos_id:
        ids.bos = in.int32();
        break;
      case field::eos_id:
        ids.eos = in.int32();
        break;
      case field::pad_id:
        ids.pad = in.int32();
        break;
      case field::unk_surface:
        model.unk_surface = in.bytes();
        break;
      default:
        break;
    }
  }
}

void parse_normalizer(std::string_view bytes, const std::string& where, SentencePieceModel& model) {
  ProtoReader in(bytes, where + ": normalizer_spec");
  while (in.next()) {
    switch (in.field()) {
      case field::charsmap:
        model.charsmap = in.bytes();
        break;
      case field::add_dummy_prefix:
        model.add_dummy_prefix = in.boolean();
        break;
      case field::remove_extra_whitespaces:
        model.remove_extra_whitespaces = in.boolean();
        break;
      case field::escape_whitespaces:
        model.escape_whitespaces = in.boolean();
        break;
      default:
        break;
    }
  }
}

void refuse_denormalizer(std::string_view bytes, const std::string& where) {
  ProtoReader in(bytes, where + ": denormalizer_spec");
  while (in.next()) {
    if (in.field() == field::charsmap && !in.bytes().empty()) {
      throw Error(in.where(), "rules for decoding are not supported");
    }
  }
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

std::optional<char> byte_of_piece(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  uint32_t value = 0;
  for (const char c : text.substr(3, 2)) {
    const bool is_digit = c >= '0' && c <= '9';
    if (!is_digit && (c < 'A' || c > 'F')) return std::nullopt;
    value = value * 16 + static_cast<uint32_t>(is_digit ? c - '0' : c - 'A' + 10);
  }
  return static_cast<char>(value);
}

void validate(SentencePieceModel& model, const std::string& where) {
  check_pieces(model, where);
  if (model.unk_surface.size() > max_piece_bytes || !is_utf8(model.unk_surface) ||
      model.unk_surface.find('\0') != std::string::npos) {
    throw Error(where, "unk_surface is not short UTF-8 text");
  }
  // An invalid byte becomes U+FFFD, a space "▁": three bytes each.
  model.max_expansion = 3;
  if (!model.charsmap.empty()) {
    model.max_expansion =
        std::max(model.max_expansion, check_charsmap(model.charsmap, where + ": charsmap"));
  }
  model.words_are_independent = has_independent_words(model);
}

std::string_view take_part(std::string_view& text, size_t size, const SentencePieceModel& model) {
  assert(model.words_are_independent && size > 0);
  size_t end = std::min(size, text.size());
  while (end < text.size() && !is_between_words(text, end)) ++end;
  const std::string_view part = text.substr(0, end);
  // The prefix of the next part is this space.
  if (end < text.size() && model.add_dummy_prefix) ++end;
  text.remove_prefix(end);
  return part;
}

SentencePieceModel parse_sentencepiece(std::span<const std::byte> proto, std::string_view where) {
  const std::string file(where);
  SentencePieceModel model;
  TrainerIds ids;
  ProtoReader in(as_text(proto), file);
  while (in.next()) {
    switch (in.field()) {
      case field::pieces:
        if (model.pieces.size() == max_vocab) {
          throw Error(file, "has more than " + std::to_string(max_vocab) + " pieces");
        }
        model.pieces.push_back(
            parse_piece(in.bytes(), file + ": piece " + std::to_string(model.pieces.size())));
        break;
      case field::trainer:
        parse_trainer(in.bytes(), file, model, ids);
        break;
      case field::normalizer:
        parse_normalizer(in.bytes(), file, model);
        break;
      case field::denormalizer:
        refuse_denormalizer(in.bytes(), file);
        break;
      default:
        break;
    }
  }
  validate(model, file);
  const auto check = [&](int32_t id, const char* name) -> std::optional<Token> {
    if (id < 0) return std::nullopt;
    return checked_token(static_cast<uint64_t>(id), model.pieces.size(), file + ": trainer_spec",
                         name);
  };
  check(ids.unk, "unk_id");
  model.bos = check(ids.bos, "bos_id");
  model.eos = check(ids.eos, "eos_id");
  model.pad = check(ids.pad, "pad_id");
  model.add_bos = model.bos.has_value();
  return model;
}

std::string serialize(const SentencePieceModel& model) {
  ProtoWriter out;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const Piece& piece = model.pieces[i];
    const PieceType type = model.is_added(i) ? PieceType::unused : piece.type;
    ProtoWriter message;
    message.bytes(field::text, piece.text);
    message.real(field::score, piece.score);
    message.number(field::type, static_cast<uint64_t>(type));
    out.bytes(field::pieces, message.take());
  }
  const auto id = [](std::optional<Token> token) {
    return token ? static_cast<uint64_t>(*token) : UINT64_MAX;
  };
  ProtoWriter trainer;
  trainer.number(field::model_type, static_cast<uint64_t>(model.algorithm));
  trainer.number(field::whitespace_as_suffix, model.treat_whitespace_as_suffix);
  trainer.number(field::byte_fallback, model.byte_fallback);
  trainer.number(field::bos_id, id(model.bos));
  trainer.number(field::eos_id, id(model.eos));
  trainer.number(field::pad_id, id(model.pad));
  trainer.bytes(field::unk_surface, model.unk_surface);
  out.bytes(field::trainer, trainer.take());

  ProtoWriter normalizer;
  normalizer.bytes(field::charsmap, model.charsmap);
  // The library would put the prefix before spaces, too.
  const bool prefix = model.add_dummy_prefix && model.prefix == SentencePieceModel::Prefix::stretch;
  normalizer.number(field::add_dummy_prefix, prefix);
  normalizer.number(field::remove_extra_whitespaces, model.remove_extra_whitespaces);
  normalizer.number(field::escape_whitespaces, model.escape_whitespaces);
  out.bytes(field::normalizer, normalizer.take());
  return out.take();
}

}  // namespace vga
