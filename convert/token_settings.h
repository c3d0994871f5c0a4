#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "tokenizer/vocabulary.h"

namespace vga {

/// A token as a folder's files name it, by its id or its text.
struct NamedToken {
  std::variant<int64_t, std::string> name;
  std::string where;  // file and key, for messages
};

/// What the JSON files of a Hugging Face folder say of the tokens that begin and end texts.
struct TokenSettings {
  std::vector<NamedToken> bos;  // the first one that the vocabulary has counts
  std::vector<NamedToken> eos;  // all of them end an answer, the first one is `eos`
  std::optional<bool> add_bos;
  std::optional<bool> add_eos;

  /// Adds what a file says. The tokenizer's own file comes first, then what is meant for
  /// generating, then config.json. A key of the wrong type is an Error naming file and key.
  void read_tokenizer_config(const nlohmann::json& file, const std::string& where);
  void read_config(const nlohmann::json& file, const std::string& where);
};

/// The tokens that `settings` names in a vocabulary of `texts`. What they do not say is as in
/// `defaults`. Ids that the vocabulary does not have, as configurations of small models often keep
/// from a large one, are ignored and noted.
SpecialTokens resolve(const TokenSettings& settings, const std::vector<std::string_view>& texts,
                      const SpecialTokens& defaults, std::vector<std::string>& notes);

}  // namespace vga
