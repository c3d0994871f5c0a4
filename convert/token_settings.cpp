#include "token_settings.h"

#include <algorithm>

#include "base/text.h"
#include "strict_json.h"
#include "tokenizer/piece.h"
#include "vga/error.h"

namespace vga {
namespace {

using nlohmann::json;

std::string key_of(const std::string& where, const char* key) {
  return where + ": key '" + key + "'";
}

/// The value of `key`; null counts as absent.
const json* find(const json& file, const char* key) {
  if (!file.is_object()) return nullptr;
  const auto found = file.find(key);
  return found == file.end() || found->is_null() ? nullptr : &*found;
}

/// A text, or an object with one: {"content": "</s>", "lstrip": false, ...}.
void add_text(const json& file, const std::string& where, const char* key,
              std::vector<NamedToken>& tokens) {
  const json* value = find(file, key);
  if (value == nullptr) return;
  const json& text =
      value->is_object() && value->contains("content") ? (*value)["content"] : *value;
  if (!text.is_string()) {
    throw Error(key_of(where, key), "wanted a token's text, found " + describe_json(*value));
  }
  tokens.push_back({text.get<std::string>(), key_of(where, key)});
}

/// A number or a list of them.
void add_ids(const json& file, const std::string& where, const char* key,
             std::vector<NamedToken>& tokens) {
  const json* value = find(file, key);
  if (value == nullptr) return;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& id : list) {
    if (!id.is_number_integer()) {
      throw Error(key_of(where, key),
                  "wanted a token's id or a list of them, found " + describe_json(*value));
    }
    tokens.push_back({id.get<int64_t>(), key_of(where, key)});
  }
}

std::optional<bool> flag(const json& file, const std::string& where, const char* key) {
  const json* value = find(file, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    throw Error(key_of(where, key), "wanted true or false, found " + describe_json(*value));
  }
  return value->get<bool>();
}

/// The token that is meant, if the vocabulary has it.
std::optional<Token> resolve(const NamedToken& token, const std::vector<std::string_view>& texts,
                             std::vector<std::string>& notes) {
  if (const auto* text = std::get_if<std::string>(&token.name)) {
    const auto found = std::ranges::find(texts, *text);
    if (found == texts.end()) return std::nullopt;
    return static_cast<Token>(found - texts.begin());
  }
  const auto id = std::get<int64_t>(token.name);
  if (id >= 0 && static_cast<uint64_t>(id) < texts.size()) return static_cast<Token>(id);
  notes.push_back(token.where + ": " + std::to_string(id) + " is no token of the vocabulary of " +
                  with_commas(texts.size()) + ", ignored");
  return std::nullopt;
}

}  // namespace

void TokenSettings::read_tokenizer_config(const json& file, const std::string& where) {
  add_text(file, where, "bos_token", bos);
  add_text(file, where, "eos_token", eos);
  if (const auto value = flag(file, where, "add_bos_token")) add_bos = value;
  if (const auto value = flag(file, where, "add_eos_token")) add_eos = value;
}

void TokenSettings::read_config(const json& file, const std::string& where) {
  add_ids(file, where, "bos_token_id", bos);
  add_ids(file, where, "eos_token_id", eos);
}

SpecialTokens resolve(const TokenSettings& settings, const std::vector<std::string_view>& texts,
                      const SpecialTokens& defaults, std::vector<std::string>& notes) {
  SpecialTokens special = defaults;
  special.add_bos = settings.add_bos.value_or(defaults.add_bos);
  special.add_eos = settings.add_eos.value_or(defaults.add_eos);
  for (auto token = settings.bos.rbegin(); token != settings.bos.rend(); ++token) {
    if (const auto found = resolve(*token, texts, notes)) special.bos = found;
  }
  std::vector<Token>& ends = special.ends;
  for (const NamedToken& token : settings.eos) {
    const auto found = resolve(token, texts, notes);
    if (found && std::ranges::find(ends, *found) == ends.end()) ends.push_back(*found);
  }
  if (ends.empty()) return special;
  special.eos = ends[0];
  for (const Token token : std::span(ends).subspan(1)) {
    const std::string_view text = texts[static_cast<size_t>(token)];
    if (text == "<|eom_id|>") {
      special.eom = token;
    } else if (!special.eot && is_end_of_turn_name(text)) {
      special.eot = token;
    }
  }
  return special;
}

}  // namespace vga
