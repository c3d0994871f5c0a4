#include "sentencepiece_model.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>

#include "config.h"
#include "error.h"
#include "hash_index.h"
#include "text.h"

namespace vga {
namespace {

using Algorithm = SentencePieceModel::Algorithm;
using Piece = SentencePieceModel::Piece;

// Sizes of the library's own fixed tables: results of one look-up in the rules and among the user
// defined pieces. It reads past their end when there are more.
constexpr size_t max_rule_bytes = 32;
constexpr size_t max_nested_user_defined = 64;

constexpr size_t max_charsmap_bytes = 1 << 20;
constexpr size_t max_rule_expansion = 64;

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

// ---- protobuf

enum class Wire : uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

/// Reads the fields of one message in turn.
class ProtoReader {
 public:
  ProtoReader(std::string_view bytes, std::string where)
      : bytes_(bytes), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  uint32_t field() const { return field_; }

  /// Moves to the next field and reads its value; false at the end of the message.
  bool next() {
    if (bytes_.empty()) return false;
    const uint64_t key = take_varint();
    field_ = static_cast<uint32_t>(key >> 3);
    wire_ = static_cast<Wire>(key & 7);
    if (key >> 32 != 0 || field_ == 0) fail("has an invalid field number");
    switch (wire_) {
      case Wire::varint:
        number_ = take_varint();
        break;
      case Wire::fixed64:
        take(8);
        break;
      case Wire::bytes:
        value_ = take(take_varint());
        break;
      case Wire::fixed32:
        value_ = take(4);
        break;
      default:
        fail("has unknown wire type " + std::to_string(key & 7));
    }
    return true;
  }

  uint64_t number() const {
    expect(Wire::varint, "a number");
    return number_;
  }
  /// proto's int32: negative numbers are stored as 64 bits.
  int32_t int32() const { return static_cast<int32_t>(static_cast<uint32_t>(number())); }
  bool boolean() const { return number() != 0; }
  float real() const {
    expect(Wire::fixed32, "a float");
    float value = 0;
    std::memcpy(&value, value_.data(), sizeof value);
    return value;
  }
  std::string_view bytes() const {
    expect(Wire::bytes, "bytes");
    return value_;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(where_, "field " + std::to_string(field_) + " " + what);
  }

  void expect(Wire wire, const char* wanted) const {
    if (wire_ != wire) {
      fail("wanted " + std::string(wanted) + ", found wire type " +
           std::to_string(static_cast<uint32_t>(wire_)));
    }
  }

  uint64_t take_varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) throw Error(where_, "cut off inside a number");
      const auto byte = static_cast<unsigned char>(bytes_[0]);
      bytes_.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    throw Error(where_, "a number is longer than 10 bytes");
  }

  std::string_view take(uint64_t n) {
    if (n > bytes_.size()) {
      fail("wants " + std::to_string(n) + " bytes, " + std::to_string(bytes_.size()) + " are left");
    }
    const std::string_view taken = bytes_.substr(0, n);
    bytes_.remove_prefix(n);
    return taken;
  }

  std::string_view bytes_;
  std::string where_;
  uint32_t field_ = 0;
  Wire wire_ = Wire::varint;
  uint64_t number_ = 0;
  std::string_view value_;
};

class ProtoWriter {
 public:
  void number(uint32_t field, uint64_t value) {
    key(field, Wire::varint);
    varint(value);
  }
  void real(uint32_t field, float value) {
    key(field, Wire::fixed32);
    std::array<char, sizeof value> raw;
    std::memcpy(raw.data(), &value, sizeof value);
    out_.append(raw.data(), raw.size());
  }
  void bytes(uint32_t field, std::string_view value) {
    key(field, Wire::bytes);
    varint(value.size());
    out_ += value;
  }
  std::string take() { return std::move(out_); }

 private:
  void key(uint32_t field, Wire wire) { varint(field << 3 | static_cast<uint32_t>(wire)); }
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>(value | 0x80));
    out_.push_back(static_cast<char>(value));
  }

  std::string out_;
};

// ---- validation

/// The byte that "<0x0A>" stands for; nullopt for anything but SentencePiece's exact spelling.
std::optional<uint8_t> byte_of_piece(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  uint32_t value = 0;
  for (const char c : text.substr(3, 2)) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'A' || c > 'F')) return std::nullopt;
    value = value * 16 + static_cast<uint32_t>(digit ? c - '0' : c - 'A' + 10);
  }
  return static_cast<uint8_t>(value);
}

/// One unit of a darts-clone double array, as the library decodes it.
struct TrieUnit {
  uint32_t bits;
  bool has_leaf() const { return (bits >> 8 & 1) != 0; }
  uint32_t value() const { return bits & 0x7FFFFFFF; }
  uint32_t label() const { return bits & 0x800000FF; }
  uint32_t offset() const { return (bits >> 10) << ((bits & 1u << 9) >> 6); }
};

/// Walks every path of the rules' trie, level by level, so that the library can walk it unchecked.
/// Returns the most bytes a rule makes of one byte, spaces counted as the "▁" they become.
size_t check_charsmap(std::string_view blob, const std::string& where) {
  if (blob.size() > max_charsmap_bytes) {
    throw Error(where, "wanted at most " + std::to_string(max_charsmap_bytes) + " bytes, found " +
                           std::to_string(blob.size()));
  }
  uint32_t trie_bytes = 0;
  if (blob.size() < sizeof trie_bytes) throw Error(where, "too small");
  std::memcpy(&trie_bytes, blob.data(), sizeof trie_bytes);
  blob.remove_prefix(sizeof trie_bytes);
  if (trie_bytes % 4 != 0 || trie_bytes >= blob.size()) {
    throw Error(where, "a trie of " + std::to_string(trie_bytes) + " bytes does not fit into " +
                           std::to_string(blob.size()));
  }
  if (trie_bytes == 0) throw Error(where, "its trie is empty");
  std::vector<TrieUnit> units(trie_bytes / 4);
  std::memcpy(units.data(), blob.data(), trie_bytes);
  const std::string_view texts = blob.substr(trie_bytes);
  if (texts.back() != '\0') throw Error(where, "its last replacement is not terminated");

  size_t expansion = 1;
  // Where the children of a node lie; each may be looked up with any byte.
  const auto children_of = [&](uint32_t node) {
    const uint32_t base = node ^ units[node].offset();
    if ((base | 0xFF) >= units.size()) throw Error(where, "its trie points outside itself");
    return base;
  };
  std::vector<uint32_t> bases = {children_of(0)};
  std::vector<size_t> seen_at(units.size(), 0);
  for (size_t depth = 1; !bases.empty(); ++depth) {
    std::vector<uint32_t> next;
    for (const uint32_t base : bases) {
      for (uint32_t c = 0; c < 256; ++c) {
        const uint32_t node = base ^ c;
        if (units[node].label() != c) continue;
        if (depth > max_rule_bytes) {
          throw Error(where, "rules for more than " + std::to_string(max_rule_bytes) +
                                 " bytes are not supported");
        }
        const uint32_t children = children_of(node);
        if (units[node].has_leaf()) {
          const uint32_t at = units[children].value();
          if (at >= texts.size()) throw Error(where, "a replacement lies outside it");
          const std::string_view text = texts.substr(at, texts.find('\0', at) - at);
          if (!is_utf8(text)) throw Error(where, "a replacement is not UTF-8");
          const size_t bytes = text.size() + 2 * static_cast<size_t>(std::ranges::count(text, ' '));
          expansion = std::max(expansion, (bytes + depth - 1) / depth);
        }
        if (seen_at[children] == depth) continue;
        seen_at[children] = depth;
        next.push_back(children);
      }
    }
    bases = std::move(next);
  }
  if (expansion > max_rule_expansion) {
    throw Error(where, "makes " + std::to_string(expansion) + " bytes of one, wanted at most " +
                           std::to_string(max_rule_expansion));
  }
  return expansion;
}

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

void check_pieces(const SentencePieceModel& model, const std::string& where) {
  if (model.pieces.empty()) throw Error(where, "has no pieces");
  if (model.pieces.size() > max_vocab) {
    throw Error(where, "wanted at most " + std::to_string(max_vocab) + " pieces, found " +
                           std::to_string(model.pieces.size()));
  }
  HashIndex texts(model.pieces.size());
  const auto text_of = [&](int32_t i) {
    return std::string_view(model.pieces[static_cast<size_t>(i)].text);
  };
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
    if (!texts.insert(std::string_view(piece.text), static_cast<int32_t>(i), text_of))
      fail("is there twice");
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
        user_defined.push_back(piece.text);
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
/// floats: their rounding is a part of what the library computes.
bool has_independent_words(const SentencePieceModel& model) {
  const bool plain = model.algorithm == Algorithm::bpe && model.charsmap.empty() &&
                     model.escape_whitespaces && !model.treat_whitespace_as_suffix;
  // The space that begins a part must be neither lost nor doubled.
  const bool keeps_space = model.add_dummy_prefix || !model.remove_extra_whitespaces;
  return plain && keeps_space && std::ranges::none_of(model.pieces, [](const Piece& piece) {
           std::string_view text = piece.text;
           while (text.starts_with(space_symbol)) text.remove_prefix(space_symbol.size());
           return text.find(space_symbol) != std::string_view::npos ||
                  text.find(' ') != std::string_view::npos;
         });
}

/// Whether `text` can be cut at `at`: before a space behind a character that is none.
bool is_between_words(std::string_view text, size_t at) {
  if (at == 0 || at + 1 >= text.size() || text[at] != ' ') return false;
  const std::string_view before = text.substr(0, at);
  return before.back() != ' ' && !before.ends_with(space_symbol);
}

// ---- tokenizer.model

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
  for (const Piece& piece : model.pieces) {
    ProtoWriter message;
    message.bytes(field::text, piece.text);
    message.real(field::score, piece.score);
    message.number(field::type, static_cast<uint64_t>(piece.type));
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
  normalizer.number(field::add_dummy_prefix, model.add_dummy_prefix);
  normalizer.number(field::remove_extra_whitespaces, model.remove_extra_whitespaces);
  normalizer.number(field::escape_whitespaces, model.escape_whitespaces);
  out.bytes(field::normalizer, normalizer.take());
  return out.take();
}

}  // namespace vga
