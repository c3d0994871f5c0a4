#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "vga/scheduler.h"
#include "vga/tokenizer.h"

namespace vga {

/// A token with the text it has in its answer.
struct ScoredToken {
  AnswerToken token;
  std::string text;  // whole characters: empty where one is not complete yet
};

/// The JSON of answers in OpenAI's form.
class AnswerJson {
 public:
  AnswerJson(bool is_chat, std::string model_name);

  using Json = nlohmann::ordered_json;

  /// {"id", "object", "created", "model", "choices"}, of a whole answer or a part of a stream.
  Json whole(Json choices) const;
  Json chunk(Json choices) const;

  /// What a choice has in a stream.
  Json opening(size_t index) const;
  Json piece(size_t index, const std::string& text, const std::string& thought,
             Json logprobs) const;
  Json ending(size_t index, const char* finish_reason) const;
  /// A choice of a whole answer.
  Json choice(size_t index, const std::string& text, const std::string& thought, Json logprobs,
              const char* finish_reason) const;

  /// Log-probabilities; null if there are none. `offset`: bytes of the text before them.
  Json logprobs(const std::vector<ScoredToken>& tokens, const Tokenizer& tokenizer,
                size_t offset) const;

 private:
  Json envelope(const char* object, Json choices) const;

  bool is_chat_;
  std::string id_;
  std::string model_name_;
  int64_t created_;
};

/// As JSON text. Output cannot fail: what is not UTF-8 is replaced.
std::string dump(const nlohmann::ordered_json& json);

/// A name that nobody can guess: 24 hexadecimal digits behind `prefix`.
std::string random_id(const std::string& prefix);

}  // namespace vga
