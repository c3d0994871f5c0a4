#include "added_tokens.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "strict_json.h"
#include "tokenizer/vocabulary.h"
#include "vga/config.h"
#include "vga/error.h"

namespace vga {
namespace {

using nlohmann::json;

void add(AddedTokens& added, size_t id, AddedToken token, const std::string& where) {
  if (id >= max_vocab) throw Error(where, "id " + std::to_string(id) + " is too large");
  const auto [twin, is_new] = added.try_emplace(id, token);
  if (!is_new && twin->second.text != token.text) {
    throw Error(where, "token " + std::to_string(id) + " is '" + twin->second.text + "' and '" +
                           token.text + "'");
  }
}

/// llama2.c's tokenizer.bin: the longest text's length, then a score, a length and a text for each
/// token.
bool looks_like_llama2c(std::string_view bytes) {
  const auto take_int = [&](size_t skip) {
    int32_t value = 0;
    if (bytes.size() < skip + sizeof value) return int32_t{-1};
    std::memcpy(&value, bytes.data() + skip, sizeof value);
    bytes.remove_prefix(skip + sizeof value);
    return value;
  };
  const int32_t longest = take_int(0);
  size_t n_tokens = 0;
  while (!bytes.empty()) {
    const int32_t length = take_int(sizeof(float));
    if (length < 0 || length > longest || static_cast<size_t>(length) > bytes.size()) return false;
    bytes.remove_prefix(static_cast<size_t>(length));
    ++n_tokens;
  }
  return longest > 0 && n_tokens > 0;
}

}  // namespace

void read_added_tokens_decoder(const json& config, const std::string& where, AddedTokens& added) {
  const auto found = config.is_object() ? config.find("added_tokens_decoder") : config.end();
  if (found == config.end() || found->is_null()) return;
  const std::string place = where + ": key 'added_tokens_decoder'";
  if (!found->is_object()) throw Error(place, "wanted an object, found " + describe_json(*found));
  for (const auto& [id, value] : found->items()) {
    size_t number = 0;
    const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), number);
    const bool good = error == std::errc() && end == id.data() + id.size() && value.is_object() &&
                      value.contains("content") && value["content"].is_string();
    if (!good) {
      throw Error(place,
                  "wanted ids with a text as content, found '" + id + "': " + describe_json(value));
    }
    const json special = value.value("special", json(false));
    add(added, number, {value["content"].get<std::string>(), special == true}, place);
  }
}

void read_added_tokens_json(const json& file, const std::string& where, AddedTokens& added) {
  if (!file.is_object()) throw Error(where, "wanted an object, found " + describe_json(file));
  for (const auto& [text, id] : file.items()) {
    const std::string place = std::string(where).append(": token '").append(text).append("'");
    add(added, json_integer(id, place), {text, false}, where);
  }
}

void add_tokens(SentencePieceModel& model, const AddedTokens& added, size_t vocab,
                const std::string& where) {
  if (!added.empty() && added.rbegin()->first >= vocab) {
    throw Error(where, "added token '" + added.rbegin()->second.text + "' has the id " +
                           std::to_string(added.rbegin()->first) + ", the model embeds " +
                           std::to_string(vocab) + " (vocab_size)");
  }
  model.first_added = model.pieces.size();
  while (model.pieces.size() < vocab) {
    const size_t id = model.pieces.size();
    if (const auto found = added.find(id); found != added.end()) {
      const auto& [text, special] = found->second;
      const PieceType type = special ? PieceType::control : PieceType::user_defined;
      model.pieces.push_back({text, unused_score, type});
    } else {
      model.pieces.push_back({"[PAD" + std::to_string(id) + "]", unused_score, PieceType::unused});
    }
  }
  validate(model, where);
}

bool looks_like_tiktoken(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, std::min(bytes.find('\n'), bytes.size()));
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 >= line.size()) return false;
  const auto is_base64 = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '+' || c == '/' || c == '=';
  };
  const auto is_digit = [](unsigned char c) { return c >= '0' && c <= '9'; };
  return space % 4 == 0 && std::ranges::all_of(line.substr(0, space), is_base64) &&
         std::ranges::all_of(line.substr(space + 1), is_digit);
}

void refuse_foreign_tokenizer(std::string_view bytes, const std::string& where) {
  const std::string wanted = ", wanted a SentencePiece model or a tokenizer.json";
  if (looks_like_tiktoken(bytes)) throw Error(where, "is a file of tiktoken's ranks" + wanted);
  if (looks_like_llama2c(bytes)) {
    throw Error(where, "is a tokenizer.bin of llama2.c" + wanted +
                           "; the tokenizer.model that it was made of will do");
  }
}

}  // namespace vga
