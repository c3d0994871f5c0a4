#include "server/answer_json.h"

#include <ctime>
#include <random>

#include "base/text.h"

namespace vga {
namespace {

using Json = nlohmann::ordered_json;

Json bytes_of(const std::string& text) {
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

std::string text_of(const Tokenizer& tokenizer, Token token) {
  StreamDecoder decoder(tokenizer, true);
  const std::string text = decoder.add(token);
  return text + decoder.finish();
}

/// What a token is called: its text, or the name of a control token, which has none.
std::string name_of(const Tokenizer& tokenizer, Token token, const std::string& text) {
  return tokenizer.is_control(token) ? std::string(tokenizer.piece(token)) : text;
}

Json chat_logprobs(const std::vector<ScoredToken>& tokens, const Tokenizer& tokenizer) {
  Json content = Json::array();
  for (const ScoredToken& scored : tokens) {
    Json top = Json::array();
    for (const Candidate& candidate : scored.token.likeliest) {
      const std::string text = text_of(tokenizer, candidate.token);
      top.push_back({{"token", name_of(tokenizer, candidate.token, text)},
                     {"logprob", candidate.logit},
                     {"bytes", bytes_of(text)}});
    }
    content.push_back({{"token", name_of(tokenizer, scored.token.token, scored.text)},
                       {"logprob", scored.token.log_probability},
                       {"bytes", bytes_of(scored.text)},
                       {"top_logprobs", top}});
  }
  return {{"content", content}, {"refusal", nullptr}};
}

Json text_logprobs(const std::vector<ScoredToken>& tokens, const Tokenizer& tokenizer,
                   size_t offset) {
  Json out = {{"tokens", Json::array()},
              {"token_logprobs", Json::array()},
              {"top_logprobs", Json::array()},
              {"text_offset", Json::array()}};
  for (const ScoredToken& scored : tokens) {
    Json top = Json::object();
    for (const Candidate& candidate : scored.token.likeliest) {
      const std::string text = text_of(tokenizer, candidate.token);
      // Of equals the likelier one stays.
      top.emplace(name_of(tokenizer, candidate.token, text), candidate.logit);
    }
    const std::string name = name_of(tokenizer, scored.token.token, scored.text);
    if (!top.empty()) top.emplace(name, scored.token.log_probability);
    out["tokens"].push_back(name);
    out["token_logprobs"].push_back(scored.token.log_probability);
    out["top_logprobs"].push_back(top);
    out["text_offset"].push_back(offset);
    offset += n_characters(scored.text);
  }
  return out;
}

}  // namespace

std::string dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string random_id(const std::string& prefix) {
  constexpr const char* digits = "0123456789abcdef";
  std::random_device random;
  std::string id = prefix;
  for (int word = 0; word < 3; ++word) {
    uint32_t bits = random();
    for (int i = 0; i < 8; ++i, bits >>= 4) id += digits[bits & 15];
  }
  return id;
}

AnswerJson::AnswerJson(bool is_chat, std::string model_name)
    : is_chat_(is_chat),
      id_(random_id(is_chat ? "chatcmpl-" : "cmpl-")),
      model_name_(std::move(model_name)),
      created_(std::time(nullptr)) {}

Json AnswerJson::envelope(const char* object, Json choices) const {
  return {{"id", id_},
          {"object", object},
          {"created", created_},
          {"model", model_name_},
          {"choices", std::move(choices)}};
}

Json AnswerJson::whole(Json choices) const {
  return envelope(is_chat_ ? "chat.completion" : "text_completion", std::move(choices));
}

Json AnswerJson::chunk(Json choices) const {
  return envelope(is_chat_ ? "chat.completion.chunk" : "text_completion", std::move(choices));
}

Json AnswerJson::opening(size_t index) const {
  return {{"index", index},
          {"delta", {{"role", "assistant"}, {"content", ""}}},
          {"logprobs", nullptr},
          {"finish_reason", nullptr}};
}

Json AnswerJson::piece(size_t index, const std::string& text, const std::string& thought,
                       Json logprobs) const {
  Json piece = {{"index", index}};
  if (is_chat_) {
    Json delta = Json::object();
    if (!thought.empty()) delta["reasoning_content"] = thought;
    if (!text.empty() || thought.empty()) delta["content"] = text;
    piece["delta"] = std::move(delta);
  } else {
    piece["text"] = text;
  }
  piece["logprobs"] = std::move(logprobs);
  piece["finish_reason"] = nullptr;
  return piece;
}

Json AnswerJson::ending(size_t index, const char* finish_reason) const {
  Json ending = {{"index", index}};
  if (is_chat_) {
    ending["delta"] = Json::object();
  } else {
    ending["text"] = "";
  }
  ending["logprobs"] = nullptr;
  ending["finish_reason"] = finish_reason;
  return ending;
}

Json AnswerJson::choice(size_t index, const std::string& text, const std::string& thought,
                        Json logprobs, const char* finish_reason) const {
  Json choice = {{"index", index}};
  if (is_chat_) {
    choice["message"] = {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
    if (!thought.empty()) choice["message"]["reasoning_content"] = thought;
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = finish_reason;
  return choice;
}

Json AnswerJson::logprobs(const std::vector<ScoredToken>& tokens, const Tokenizer& tokenizer,
                          size_t offset) const {
  if (tokens.empty()) return nullptr;
  return is_chat_ ? chat_logprobs(tokens, tokenizer) : text_logprobs(tokens, tokenizer, offset);
}

}  // namespace vga
