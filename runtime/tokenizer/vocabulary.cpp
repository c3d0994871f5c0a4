#include "tokenizer/vocabulary.h"

#include <algorithm>

#include "vga/config.h"
#include "vga/error.h"

namespace vga {
namespace {

namespace key {
using namespace vocabulary_key;
constexpr std::string_view bos = "tokenizer.ggml.bos_token_id";
constexpr std::string_view eos = "tokenizer.ggml.eos_token_id";
constexpr std::string_view padding = "tokenizer.ggml.padding_token_id";
constexpr std::string_view eot = "tokenizer.ggml.eot_token_id";
constexpr std::string_view eom = "tokenizer.ggml.eom_token_id";
constexpr std::string_view add_bos = "tokenizer.ggml.add_bos_token";
constexpr std::string_view add_eos = "tokenizer.ggml.add_eos_token";
constexpr std::string_view original = "tokenizer.sentencepiece.model";
}  // namespace key

using Algorithm = SentencePieceModel::Algorithm;
using Piece = SentencePieceModel::Piece;

void check_count(const Gguf& gguf, std::string_view key, size_t found, size_t wanted) {
  if (found == wanted) return;
  throw Error(key_in(gguf, key), "wanted one value for each of the " + std::to_string(wanted) +
                                     " tokens, found " + std::to_string(found));
}

std::optional<Token> read_id(const Gguf& gguf, std::string_view key, size_t vocab) {
  const auto id = gguf.integer(key);
  if (!id) return std::nullopt;
  return checked_token(*id, vocab, gguf.file_name(), "key '" + std::string(key) + "'");
}

/// llama.cpp's id where the file has none.
Token default_id(const Gguf& gguf, std::string_view key, size_t vocab, uint64_t id) {
  return checked_token(id, vocab, gguf.file_name(),
                       "default of the absent key '" + std::string(key) + "'");
}

std::vector<PieceType> read_types(const Gguf& gguf, std::span<const std::string_view> texts) {
  std::vector<PieceType> types(texts.size(), PieceType::normal);
  if (const auto numbers = gguf.integers(key::types)) {
    check_count(gguf, key::types, numbers->size(), texts.size());
    for (size_t i = 0; i < types.size(); ++i) {
      const auto type = to_piece_type((*numbers)[i]);
      if (!type) {
        throw Error(key_in(gguf, key::types), entry_name("token", i, texts[i]) +
                                                  "wanted a type from 1 to 6, found " +
                                                  std::to_string((*numbers)[i]));
      }
      types[i] = *type;
    }
  }
  for (size_t i = 0; i < types.size(); ++i) {
    const bool is_marker = types[i] == PieceType::user_defined && looks_like_control(texts[i]);
    if (is_marker || is_end_of_turn_name(texts[i])) types[i] = PieceType::control;
  }
  return types;
}

std::vector<Token> read_ends(const Gguf& gguf, size_t vocab) {
  std::vector<Token> ends;
  for (const std::string_view key : {key::eos, key::eot, key::eom}) {
    if (const auto id = read_id(gguf, key, vocab)) ends.push_back(*id);
  }
  if (const auto ids = gguf.integers(key::ends)) {
    for (const int64_t id : *ids) {
      // What is negative becomes too large.
      ends.push_back(checked_token(static_cast<uint64_t>(id), vocab, gguf.file_name(),
                                   "key '" + std::string(key::ends) + "'"));
    }
  }
  return ends;
}

/// The arrays must say the same as the original; behind its pieces they may add tokens, and what
/// fills up the vocabulary.
void check_agreement(const Gguf& gguf, const SentencePieceModel& model,
                     const Vocabulary& vocabulary) {
  if (model.pieces.size() > vocabulary.texts.size()) {
    check_count(gguf, key::original, model.pieces.size(), vocabulary.texts.size());
  }
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    if (model.pieces[i].text == vocabulary.texts[i]) continue;
    throw Error(key_in(gguf, key::original), entry_name("piece", i, model.pieces[i].text) + "is '" +
                                                 std::string(vocabulary.texts[i]) + "' in key '" +
                                                 std::string(key::tokens) + "'");
  }
}

SentencePieceModel::Prefix read_prefix(const Gguf& gguf) {
  using Prefix = SentencePieceModel::Prefix;
  const std::string_view name = gguf.string(key::space_prefix).value_or("stretch");
  if (name == "stretch") return Prefix::stretch;
  if (name == "word") return Prefix::word;
  if (name == "text") return Prefix::text;
  throw Error(key_in(gguf, key::space_prefix),
              "wanted stretch, word or text, found '" + std::string(name) + "'");
}

/// The vocabulary and normalizer from the standard arrays; `unknown` is used if the types do not
/// say which one it is.
SentencePieceModel rebuild(const Gguf& gguf, const Vocabulary& vocabulary, Algorithm algorithm,
                           Token unknown) {
  const auto scores = gguf.required(key::scores, gguf.floats(key::scores));
  check_count(gguf, key::scores, scores.size(), vocabulary.texts.size());

  SentencePieceModel model;
  model.algorithm = algorithm;
  model.pieces.reserve(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    model.byte_fallback |= vocabulary.types[i] == PieceType::byte;
    model.pieces.push_back({std::string(vocabulary.texts[i]), scores[i], vocabulary.types[i]});
  }
  // Older files call unknown what only fills up the vocabulary, [PAD32001], and <unk> a control
  // token.
  if (std::ranges::count(model.pieces, PieceType::unknown, &Piece::type) != 1) {
    for (Piece& piece : model.pieces) {
      if (piece.type == PieceType::unknown) piece.type = PieceType::unused;
    }
    model.pieces[static_cast<size_t>(unknown)].type = PieceType::unknown;
  }
  model.add_dummy_prefix =
      gguf.boolean(key::add_space_prefix).value_or(algorithm == Algorithm::bpe);
  model.remove_extra_whitespaces = gguf.boolean(key::extra_whitespaces).value_or(false);
  if (const auto charsmap = gguf.raw(key::charsmap)) {
    model.charsmap.assign(reinterpret_cast<const char*>(charsmap->data()), charsmap->size());
  }
  model.first_added = 0;
  model.prefix = read_prefix(gguf);
  validate(model, key_in(gguf, key::tokens));
  return model;
}

}  // namespace

std::string key_in(const Gguf& gguf, std::string_view key) {
  return gguf.file_name() + ": key '" + std::string(key) + "'";
}

Vocabulary read_vocabulary(const Gguf& gguf) {
  Vocabulary vocabulary;
  vocabulary.model = gguf.required(key::model, gguf.string(key::model));
  vocabulary.texts = gguf.required(key::tokens, gguf.strings(key::tokens));
  const size_t n = vocabulary.texts.size();
  if (n < 1 || n > max_vocab) {
    throw Error(key_in(gguf, key::tokens),
                "wanted 1 to " + std::to_string(max_vocab) + " tokens, found " + std::to_string(n));
  }
  vocabulary.types = read_types(gguf, vocabulary.texts);
  vocabulary.bos = read_id(gguf, key::bos, n);
  vocabulary.eos = read_id(gguf, key::eos, n);
  vocabulary.ends = read_ends(gguf, n);
  vocabulary.unknown = read_id(gguf, key::unknown, n);
  vocabulary.adds_bos = gguf.boolean(key::add_bos);
  return vocabulary;
}

SpecialTokens special_tokens_of(const SentencePieceModel& model) {
  SpecialTokens special;
  special.bos = model.bos;
  special.eos = model.eos;
  special.add_bos = model.add_bos;
  return special;
}

void write_special_tokens(const SpecialTokens& special, GgufWriter& writer) {
  const auto add_id = [&](std::string_view key, std::optional<Token> token) {
    if (token) writer.add(key, static_cast<uint32_t>(*token));
  };
  add_id(key::bos, special.bos);
  add_id(key::eos, special.eos);
  add_id(key::eot, special.eot);
  add_id(key::eom, special.eom);
  if (!special.ends.empty()) writer.add(key::ends, std::span<const Token>(special.ends));
  writer.add(key::add_bos, special.add_bos);
  writer.add(key::add_eos, special.add_eos);
}

void write_tokenizer(const SentencePieceModel& model, std::span<const std::byte> original,
                     GgufWriter& writer) {
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (const Piece& piece : model.pieces) {
    tokens.push_back(piece.text);
    scores.push_back(piece.score);
    types.push_back(static_cast<int32_t>(piece.type));
  }
  const auto unknown = std::ranges::find(types, static_cast<int32_t>(PieceType::unknown));
  writer.add(key::model, model.algorithm == Algorithm::bpe ? "llama" : "t5");
  writer.add(key::pre, "default");
  writer.add(key::tokens, std::span<const std::string>(tokens));
  writer.add(key::scores, std::span<const float>(scores));
  writer.add(key::types, std::span<const int32_t>(types));
  writer.add(key::unknown, static_cast<uint32_t>(unknown - types.begin()));
  if (model.pad) writer.add(key::padding, static_cast<uint32_t>(*model.pad));
  writer.add(key::add_space_prefix, model.add_dummy_prefix);
  writer.add(key::extra_whitespaces, model.remove_extra_whitespaces);
  if (!model.charsmap.empty()) {
    writer.add(key::charsmap, std::as_bytes(std::span(model.charsmap)));
  }
  writer.add(key::original, original);
}

SentencePieceModel read_tokenizer(const Gguf& gguf) {
  const Vocabulary vocabulary = read_vocabulary(gguf);
  const bool bpe = vocabulary.model == "llama";
  const size_t n = vocabulary.texts.size();
  SentencePieceModel model;
  if (const auto original = gguf.raw(key::original)) {
    model = parse_sentencepiece(*original, key_in(gguf, key::original));
    check_agreement(gguf, model, vocabulary);
    if (model.pieces.size() < n) {
      model.first_added = model.pieces.size();
      for (size_t i = model.first_added; i < n; ++i) {
        model.pieces.push_back(
            {std::string(vocabulary.texts[i]), unused_score, vocabulary.types[i]});
      }
      validate(model, key_in(gguf, key::tokens));
    }
  } else {
    // The defaults are what llama.cpp takes for absent keys.
    const auto id = [&](std::optional<Token> given, std::string_view key, uint64_t other) {
      return given ? *given : default_id(gguf, key, n, other);
    };
    const Token unknown = id(vocabulary.unknown, key::unknown, bpe ? 0 : 2);
    model = rebuild(gguf, vocabulary, bpe ? Algorithm::bpe : Algorithm::unigram, unknown);
    if (bpe) model.bos = id(vocabulary.bos, key::bos, 1);
    model.eos = id(vocabulary.eos, key::eos, bpe ? 2 : 1);
    model.add_bos = bpe;
  }
  if (vocabulary.bos) model.bos = vocabulary.bos;
  if (vocabulary.eos) model.eos = vocabulary.eos;
  model.ends = vocabulary.ends;
  model.add_bos = vocabulary.adds_bos.value_or(model.add_bos);
  return model;
}

}  // namespace vga
