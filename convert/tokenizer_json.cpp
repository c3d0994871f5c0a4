#include "tokenizer_json.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "base/text.h"
#include "strict_json.h"
#include "tokenizer/byte_bpe.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/vocabulary.h"
#include "vga/config.h"
#include "vga/error.h"

namespace vga {
namespace {

using nlohmann::json;
using Piece = TokenizerJson::Piece;

/// A vocabulary of 262,144 tokens has half a million merges, each two strings.
constexpr size_t max_values = 1 << 24;

/// What ByteLevel cuts text by unless it is told not to.
constexpr const char* byte_level_expression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string hashed_pair(std::string_view left, std::string_view right) {
  return std::string(left).append(1, '\0').append(right);
}

/// The bytes that `text` stands for; nullopt if it is no base64.
std::optional<std::string> from_base64(std::string_view text) {
  constexpr std::string_view digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string bytes;
  uint32_t bits = 0;
  int n_bits = 0;
  for (const char c : text) {
    const size_t digit = digits.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    n_bits += 6;
    if (n_bits < 8) continue;
    n_bits -= 8;
    bytes += static_cast<char>(bits >> n_bits & 0xFF);
  }
  return bytes;
}

/// What fills up a vocabulary.
Piece padding(size_t token) {
  return {"[PAD" + std::to_string(token) + "]", unused_score, PieceType::unused};
}

class Reader {
 public:
  Reader(std::span<const std::byte> text, std::string_view where)
      : where_(where), root_(parse_json(text, where, max_values)) {
    if (!root_.is_object()) fail("", "wanted an object", root_);
  }

  TokenizerJson read() {
    const json& model = member(root_, "model", "");
    if (!model.is_object()) fail("model", "wanted an object", model);
    const json* type = find(model, "type");
    const bool is_unigram = type != nullptr ? *type == "Unigram" : find(model, "merges") == nullptr;
    if (type != nullptr && *type != "BPE" && *type != "Unigram") {
      fail("model.type", "wanted BPE or Unigram", *type);
    }
    const std::vector<Step> cuts = steps("pre_tokenizer", "pretokenizers");
    const bool is_byte_level =
        std::ranges::any_of(cuts, [](const Step& step) { return step.type == "ByteLevel"; });
    if (is_unigram) {
      read_unigram(model, cuts);
    } else if (is_byte_level) {
      read_byte_level(model, cuts);
    } else {
      read_sentencepiece_bpe(model, cuts);
    }
    read_template();
    return std::move(out_);
  }

 private:
  /// A normalizer, pre-tokenizer or post-processor; sequences of them are taken apart.
  struct Step {
    std::string type;
    const json* object;
    std::string path;
  };

  [[noreturn]] void fail(const std::string& path, const std::string& wanted) const {
    throw Error(path.empty() ? where_ : where_ + ": key '" + path + "'", wanted);
  }
  [[noreturn]] void fail(const std::string& path, const std::string& wanted,
                         const json& found) const {
    fail(path, wanted + ", found " + describe_json(found));
  }

  /// The value of a key; null counts as absent.
  static const json* find(const json& object, const char* key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }
  const json& member(const json& object, const char* key, const std::string& path) const {
    const json* found = find(object, key);
    if (found == nullptr) fail(path.empty() ? key : path + "." + key, "is missing");
    return *found;
  }
  bool flag(const json& object, const char* key, const std::string& path, bool absent) const {
    const json* found = find(object, key);
    if (found == nullptr) return absent;
    if (!found->is_boolean()) fail(path + "." + key, "wanted true or false", *found);
    return found->get<bool>();
  }
  std::string string(const json& object, const char* key, const std::string& path) const {
    const json& found = member(object, key, path);
    if (!found.is_string()) fail(path + "." + key, "wanted a string", found);
    return found.get<std::string>();
  }
  size_t id(const json& value, const std::string& path) const {
    const uint64_t number = json_integer(value, where_ + ": key '" + path + "'");
    if (number >= max_vocab) fail(path, "wanted an id below " + std::to_string(max_vocab), value);
    return number;
  }

  std::vector<Step> steps(const char* key, const char* members) const {
    std::vector<Step> found;
    if (const json* value = find(root_, key)) add_steps(*value, key, members, found);
    return found;
  }
  void add_steps(const json& value, const std::string& path, const char* members,
                 std::vector<Step>& found) const {
    if (!value.is_object()) fail(path, "wanted an object", value);
    const std::string type = string(value, "type", path);
    if (type != "Sequence") return found.push_back({type, &value, path});
    const json& list = member(value, members, path);
    if (!list.is_array()) fail(path + "." + members, "wanted an array", list);
    for (const json& entry : list) add_steps(entry, path, members, found);
  }
  [[noreturn]] void refuse(const Step& step) const {
    fail(step.path, "'" + step.type + "' is not supported for this kind of tokenizer");
  }
  /// The pattern of a Split or Replace and whether it is a regular expression.
  std::pair<std::string, bool> pattern(const Step& step) const {
    const json& value = member(*step.object, "pattern", step.path);
    if (value.is_object() && value.contains("Regex")) {
      return {string(value, "Regex", step.path + ".pattern"), true};
    }
    if (!value.is_object()) fail(step.path + ".pattern", "wanted an object", value);
    return {string(value, "String", step.path + ".pattern"), false};
  }
  bool is_replace(const Step& step, const char* text, bool regex, std::string_view by) const {
    return step.type == "Replace" && pattern(step) == std::pair(std::string(text), regex) &&
           string(*step.object, "content", step.path) == by;
  }

  // Vocabulary.

  void put(size_t token, Piece piece) {
    const std::string problem = piece_problem(piece.text);
    if (!problem.empty()) fail("model.vocab", entry_name("token", token, piece.text) + problem);
    if (token >= out_.pieces.size()) out_.pieces.resize(token + 1);
    Piece& place = out_.pieces[token];
    if (!place.text.empty() && place.text != piece.text) {
      fail("model.vocab",
           "id " + std::to_string(token) + " is '" + place.text + "' and '" + piece.text + "'");
    }
    place = std::move(piece);
  }

  void read_vocabulary(const json& model) {
    const json& vocab = member(model, "vocab", "model");
    if (!vocab.is_object()) fail("model.vocab", "wanted an object", vocab);
    for (const auto& [text, value] : vocab.items()) put(id(value, "model.vocab"), {.text = text});
    read_added_tokens();
  }

  /// Control tokens and those that are found in any text, and what fills the gaps between.
  void read_added_tokens() {
    if (const json* added = find(root_, "added_tokens")) {
      if (!added->is_array()) fail("added_tokens", "wanted an array", *added);
      for (const json& entry : *added) read_added_token(entry);
    }
    std::unordered_set<std::string_view> texts;
    for (size_t i = 0; i < out_.pieces.size(); ++i) {
      if (out_.pieces[i].text.empty()) out_.pieces[i] = padding(i);
      if (!texts.insert(out_.pieces[i].text).second) {
        fail("added_tokens", "token '" + out_.pieces[i].text + "' is there twice");
      }
    }
  }
  void read_added_token(const json& entry) {
    const std::string path = "added_tokens";
    if (!entry.is_object()) fail(path, "wanted objects", entry);
    const std::string text = string(entry, "content", path);
    if (text.empty()) fail(path, "an added token is empty");
    const bool special = flag(entry, "special", path, false);
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      if (!flag(entry, key, path, false)) continue;
      if (!special) fail(path, "token '" + text + "' has " + key + ", which is not supported");
      out_.notes.push_back("added token '" + text + "' has " + key + ", which is ignored");
    }
    const size_t token = id(member(entry, "id", path), path);
    const float score = token < out_.pieces.size() ? out_.pieces[token].score : 0;
    const bool is_unknown = out_.unknown && static_cast<size_t>(*out_.unknown) == token;
    put(token, {text, score,
                is_unknown ? PieceType::unknown
                : special  ? PieceType::control
                           : PieceType::user_defined});
  }

  std::vector<std::pair<std::string, std::string>> read_merges(const json& model) const {
    const json& list = member(model, "merges", "model");
    if (!list.is_array()) fail("model.merges", "wanted an array", list);
    std::vector<std::pair<std::string, std::string>> merges;
    for (const json& entry : list) {
      if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
        merges.emplace_back(entry[0].get<std::string>(), entry[1].get<std::string>());
        continue;
      }
      const std::string text = entry.is_string() ? entry.get<std::string>() : "";
      const size_t space = text.find(' ');
      if (space == std::string::npos) fail("model.merges", "wanted pairs of tokens", entry);
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
    return merges;
  }
  void refuse_options(const json& model) const {
    for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      const json* found = find(model, key);
      if (found != nullptr && *found != json("") && *found != json(0)) {
        fail(std::string("model.") + key, "is not supported", *found);
      }
    }
  }

  // Byte-level BPE.

  void read_byte_level(const json& model, const std::vector<Step>& cuts) {
    out_.model = "gpt2";
    refuse_options(model);
    if (flag(model, "byte_fallback", "model", false)) {
      fail("model.byte_fallback", "wanted false beside ByteLevel");
    }
    for (const Step& step : steps("normalizer", "normalizers")) {
      if (step.type != "NFC") refuse(step);
      out_.nfc = true;
    }
    std::vector<std::string> expressions;
    for (const Step& step : cuts) add_expression(step, expressions);
    const bool ignores_merges = flag(model, "ignore_merges", "model", false);
    const auto pre = Pretokenizer::name_of(expressions, ignores_merges);
    if (!pre) {
      std::string found;
      for (const std::string& expression : expressions) found += "'" + expression + "' ";
      fail("pre_tokenizer", "no known pre-tokenizer (" + Pretokenizer::names() + ") cuts text by " +
                                found + "with ignore_merges " +
                                (ignores_merges ? "true" : "false"));
    }
    out_.pre = *pre;
    read_vocabulary(model);
    for (const auto& [left, right] : read_merges(model)) {
      out_.merges.push_back(std::string(left).append(" ").append(right));
    }
    std::unordered_set<std::string_view> texts;
    for (const Piece& piece : out_.pieces) {
      if (piece.type != PieceType::control && piece.type != PieceType::unused) {
        texts.insert(piece.text);
      }
    }
    const std::string problem =
        missing_byte_problem([&](std::string_view text) { return texts.contains(text); });
    if (!problem.empty()) fail("model.vocab", problem);
  }

  void add_expression(const Step& step, std::vector<std::string>& expressions) const {
    if (step.type == "ByteLevel") {
      if (flag(*step.object, "add_prefix_space", step.path, true)) {
        fail(step.path + ".add_prefix_space", "wanted false, found true");
      }
      if (flag(*step.object, "use_regex", step.path, true)) {
        expressions.emplace_back(byte_level_expression);
      }
    } else if (step.type == "Digits") {
      const bool single = flag(*step.object, "individual_digits", step.path, false);
      expressions.emplace_back(single ? "\\p{N}" : "\\p{N}+");
    } else if (step.type == "Split") {
      const auto [expression, is_regex] = pattern(step);
      const std::string behavior = string(*step.object, "behavior", step.path);
      const bool inverted = flag(*step.object, "invert", step.path, false);
      // Expressions that match all of a text can also be said to be what is not removed.
      const bool isolates = behavior == "Isolated" || (behavior == "Removed" && inverted);
      if (!is_regex || !isolates) refuse(step);
      expressions.push_back(expression);
    } else {
      refuse(step);
    }
  }

  // SentencePiece's BPE and unigram.

  /// What is done to spaces; whatever else is done to text is refused.
  void read_spaces(const std::vector<Step>& cuts, bool is_unigram) {
    bool spells_spaces = false;
    bool splits_words = false;
    for (const Step& step : steps("normalizer", "normalizers")) {
      if (step.type == "Prepend" && string(*step.object, "prepend", step.path) == space_symbol) {
        out_.space_prefix = "stretch";
      } else if (is_replace(step, " ", false, space_symbol)) {
        spells_spaces = true;
      } else if (is_unigram && is_replace(step, " {2,}", true, " ")) {
        out_.removes_extra_spaces = true;
      } else if (is_unigram && step.type == "Precompiled") {
        const auto rules = from_base64(string(*step.object, "precompiled_charsmap", step.path));
        if (!rules) fail(step.path + ".precompiled_charsmap", "is no base64");
        out_.charsmap = *rules;
      } else {
        refuse(step);
      }
    }
    for (const Step& step : cuts) {
      if (step.type == "Metaspace") {
        read_metaspace(step);
        splits_words = flag(*step.object, "split", step.path, true);
        spells_spaces = true;
      } else if (step.type != "Split" || !spells_spaces ||
                 pattern(step) != std::pair(std::string(" "), false)) {
        refuse(step);  // a Split at spaces finds none when they are spelled "▁"
      }
    }
    if (!spells_spaces)
      fail("normalizer", "wanted spaces to become '▁', found nothing that does it");
    splits_words_ = splits_words;
  }

  void read_metaspace(const Step& step) {
    if (string(*step.object, "replacement", step.path) != space_symbol) refuse(step);
    const json* scheme = find(*step.object, "prepend_scheme");
    const bool prefix = flag(*step.object, "add_prefix_space", step.path, true);
    const std::string name = scheme == nullptr ? (prefix ? "always" : "never")
                                               : string(*step.object, "prepend_scheme", step.path);
    if (name == "always") {
      out_.space_prefix = "word";
    } else if (name == "first") {
      out_.space_prefix = "text";
    } else if (name != "never") {
      fail(step.path + ".prepend_scheme", "wanted always, first or never", *scheme);
    }
  }

  void read_unknown(const json& model, const char* key) {
    const json& vocab = member(model, "vocab", "model");
    const json* unknown = find(model, key);
    if (unknown == nullptr) return;
    const json* value = unknown;
    if (unknown->is_string()) value = find(vocab, unknown->get_ref<const std::string&>().c_str());
    if (value == nullptr) fail(std::string("model.") + key, "is not in the vocabulary", *unknown);
    out_.unknown = static_cast<Token>(id(*value, std::string("model.") + key));
  }

  /// Types that only SentencePiece has. It wants an unknown piece.
  void mark_pieces(bool byte_fallback) {
    for (Piece& piece : out_.pieces) {
      if (byte_fallback && piece.type == PieceType::normal && byte_of_piece(piece.text)) {
        piece.type = PieceType::byte;
      }
    }
    if (!out_.unknown) fail("model", "wanted an unknown token, found none");
    const auto unknown = static_cast<size_t>(*out_.unknown);
    if (unknown >= out_.pieces.size()) {
      fail("model.unk_id", "wanted a token, found " + std::to_string(unknown));
    }
    out_.pieces[unknown].type = PieceType::unknown;
    if (!splits_words_) return;
    for (const Piece& piece : out_.pieces) {
      if (piece.type != PieceType::normal || piece.text.rfind(space_symbol) == 0) continue;
      if (piece.text.find(space_symbol) == std::string::npos) continue;
      fail("pre_tokenizer.split",
           "wanted false where pieces such as '" + piece.text + "' span words");
    }
  }

  void read_unigram(const json& model, const std::vector<Step>& cuts) {
    out_.model = "t5";
    const json& vocab = member(model, "vocab", "model");
    if (!vocab.is_array()) fail("model.vocab", "wanted an array", vocab);
    read_spaces(cuts, true);
    read_unknown(model, "unk_id");
    for (size_t i = 0; i < vocab.size(); ++i) {
      const json& entry = vocab[i];
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() ||
          !entry[1].is_number()) {
        fail("model.vocab", "wanted pairs of a text and a score", entry);
      }
      put(i, {entry[0].get<std::string>(), entry[1].get<float>(), PieceType::normal});
    }
    read_added_tokens();
    mark_pieces(flag(model, "byte_fallback", "model", false));
    if (out_.removes_extra_spaces) {
      // Without spaces at its start a text gets one prefix by either rule.
      if (out_.space_prefix == "word") out_.space_prefix = "stretch";
      if (out_.space_prefix == "text") {
        fail("pre_tokenizer.prepend_scheme",
             "wanted always or never where extra spaces are removed");
      }
    }
  }

  void read_sentencepiece_bpe(const json& model, const std::vector<Step>& cuts) {
    out_.model = "llama";
    refuse_options(model);
    if (flag(model, "ignore_merges", "model", false)) {
      fail("model.ignore_merges", "wanted false without ByteLevel");
    }
    const bool byte_fallback = flag(model, "byte_fallback", "model", false);
    if (!byte_fallback && !flag(model, "fuse_unk", "model", false)) {
      fail("model.fuse_unk", "wanted true without byte_fallback");
    }
    read_spaces(cuts, false);
    read_unknown(model, "unk_token");
    read_vocabulary(model);
    mark_pieces(byte_fallback);
    score_merges(read_merges(model));
  }

  /// Scores under which SentencePiece joins what the merges do, in their order: a piece has that of
  /// the first merge which makes it. That is the same where a piece may be joined of any two others
  /// that make it, as in tokenizers that were converted from SentencePiece.
  void score_merges(const std::vector<std::pair<std::string, std::string>>& merges) {
    std::unordered_map<std::string, size_t> rank;  // of the last merge that makes a piece
    std::unordered_set<std::string> pairs;
    std::unordered_map<std::string, float> scores;
    for (size_t i = 0; i < merges.size(); ++i) {
      const auto& [left, right] = merges[i];
      const std::string made = left + right;
      const auto [last, is_new] = rank.try_emplace(made, i);
      if (is_new) scores[made] = -static_cast<float>(i);
      const bool goes_on = is_new || merges[i - 1].first + merges[i - 1].second == made;
      if (!goes_on)
        fail("model.merges", "the merges that make '" + made +
                                 "' do not follow each other, which no scores can say");
      pairs.insert(hashed_pair(left, right));
    }
    std::unordered_set<std::string_view> joinable;
    for (const Piece& piece : out_.pieces) {
      if (piece.type == PieceType::normal) joinable.insert(piece.text);
    }
    for (Piece& piece : out_.pieces) {
      const auto score = scores.find(piece.text);
      piece.score = score == scores.end() ? -static_cast<float>(merges.size()) : score->second;
      if (piece.type != PieceType::normal) continue;
      const std::string_view text = piece.text;
      for (size_t at = 1; at < text.size(); ++at) {
        if ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) continue;
        const std::string_view left = text.substr(0, at);
        const std::string_view right = text.substr(at);
        if (!joinable.contains(left) || !joinable.contains(right)) continue;
        if (pairs.contains(hashed_pair(left, right))) continue;
        fail("model.merges", "'" + piece.text + "' is never joined of '" + std::string(left) +
                                 "' and '" + std::string(right) + "', which no scores can say");
      }
    }
  }

  // What is put around a text.

  void read_template() {
    for (const Step& step : steps("post_processor", "processors")) {
      if (step.type == "ByteLevel") continue;  // concerns offsets alone
      if (step.type != "TemplateProcessing") refuse(step);
      bool behind = false;
      for (const json& entry : member(*step.object, "single", step.path)) {
        if (!entry.is_object()) fail(step.path + ".single", "wanted objects", entry);
        if (find(entry, "Sequence") != nullptr) {
          behind = true;
          continue;
        }
        const std::string name = string(member(entry, "SpecialToken", step.path), "id", step.path);
        const auto found = std::ranges::find(out_.pieces, name, &Piece::text);
        if (found == out_.pieces.end())
          fail(step.path, "token '" + name + "' is not in the vocabulary");
        std::optional<Token>& place = behind ? out_.eos : out_.bos;
        if (place)
          fail(step.path + ".single", "wanted one token at each end of a text, found more");
        place = static_cast<Token>(found - out_.pieces.begin());
      }
    }
  }

  std::string where_;
  json root_;
  TokenizerJson out_;
  bool splits_words_ = false;  // before pieces are joined
};

}  // namespace

TokenizerJson parse_tokenizer_json(std::span<const std::byte> text, std::string_view where) {
  return Reader(text, where).read();
}

SpecialTokens special_tokens_of(const TokenizerJson& tokenizer) {
  SpecialTokens special;
  special.bos = tokenizer.bos;
  special.eos = tokenizer.eos;
  special.add_bos = tokenizer.bos.has_value();
  special.add_eos = tokenizer.eos.has_value();
  return special;
}

void pad(TokenizerJson& tokenizer, size_t vocab) {
  while (tokenizer.pieces.size() < vocab) {
    tokenizer.pieces.push_back(padding(tokenizer.pieces.size()));
  }
}

void write_tokenizer(const TokenizerJson& tokenizer, GgufWriter& writer) {
  namespace key = vocabulary_key;
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (const Piece& piece : tokenizer.pieces) {
    texts.push_back(piece.text);
    scores.push_back(piece.score);
    types.push_back(static_cast<int32_t>(piece.type));
  }
  writer.add(key::model, std::string_view(tokenizer.model));
  writer.add(key::pre, std::string_view(tokenizer.pre));
  writer.add(key::tokens, std::span<const std::string>(texts));
  writer.add(key::types, std::span<const int32_t>(types));
  if (tokenizer.unknown) writer.add(key::unknown, static_cast<uint32_t>(*tokenizer.unknown));
  if (tokenizer.model == "gpt2") {
    writer.add(key::merges, std::span<const std::string>(tokenizer.merges));
    writer.add(key::normalizer, tokenizer.nfc ? "nfc" : "none");
    return;
  }
  writer.add(key::scores, std::span<const float>(scores));
  writer.add(key::add_space_prefix, !tokenizer.space_prefix.empty());
  if (!tokenizer.space_prefix.empty() && tokenizer.space_prefix != "stretch") {
    writer.add(key::space_prefix, std::string_view(tokenizer.space_prefix));
  }
  writer.add(key::extra_whitespaces, tokenizer.removes_extra_spaces);
  if (!tokenizer.charsmap.empty()) {
    writer.add(key::charsmap, std::as_bytes(std::span(tokenizer.charsmap)));
  }
}

}  // namespace vga
