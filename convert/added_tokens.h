#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "tokenizer/sentencepiece_model.h"

namespace vga {

/// A token that a folder's other files add to its tokenizer.model.
struct AddedToken {
  std::string text;
  bool special = false;  // a control token, else it is found in any text
};
using AddedTokens = std::map<size_t, AddedToken>;  // by id

/// From `added_tokens_decoder` of a tokenizer_config.json, if it is there.
void read_added_tokens_decoder(const nlohmann::json& config, const std::string& where,
                               AddedTokens& added);
/// From an added_tokens.json, {"<text>": id}, which does not say what is special.
void read_added_tokens_json(const nlohmann::json& file, const std::string& where,
                            AddedTokens& added);

/// Appends to the model's pieces the added tokens behind them, and unused ones until there is a
/// piece for each row of an embedding of `vocab`. An Error naming `where` if there are more.
void add_tokens(SentencePieceModel& model, const AddedTokens& added, size_t vocab,
                const std::string& where);

/// An Error if `bytes`, of the tokenizer file `where`, are those of a program whose format has no
/// place in a GGUF file: tiktoken's ranks or llama2.c's tokenizer.bin.
void refuse_foreign_tokenizer(std::string_view bytes, const std::string& where);
/// Whether they are tiktoken's: lines of base64, a space and a rank.
bool looks_like_tiktoken(std::string_view bytes);

}  // namespace vga
