#include "server/request.h"

#include <charconv>
#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "server/api_error.h"
#include "strict_json.h"
#include "vga/error.h"

namespace vga {
namespace {

using nlohmann::json;

constexpr size_t max_stops = 16;
constexpr size_t max_top_logprobs = 20;
/// Numbers that a double holds exactly.
constexpr int64_t max_count = int64_t{1} << 53;

[[noreturn]] void refuse(const std::string& param, const std::string& what) {
  throw ApiError(400, "'" + param + "': " + what, param);
}

json parse_body(std::string_view body) {
  json parsed;
  try {
    parsed = parse_json(std::as_bytes(std::span(body)), "body");
  } catch (const Error& error) {
    throw ApiError(400, error.what());
  }
  if (!parsed.is_object()) {
    throw ApiError(400, "the body: wanted a JSON object, found " + describe_json(parsed));
  }
  return parsed;
}

/// The fields of a request. null is as good as absent.
class Fields {
 public:
  explicit Fields(const json& object, std::string prefix = {})
      : object_(object), prefix_(std::move(prefix)) {}

  const json* find(const std::string& name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  std::string full_name(const std::string& name) const { return prefix_ + name; }

  void read(const std::string& name, bool& value) const {
    const json* found = find(name);
    if (found == nullptr) return;
    if (!found->is_boolean()) wanted(name, "true or false", *found);
    value = found->get<bool>();
  }
  /// A number in [low, high], or above low if `open`.
  void read(const std::string& name, float& value, double low, double high,
            bool open = false) const {
    const json* found = find(name);
    if (found == nullptr) return;
    const std::string range = (open ? "a number above " : "a number from ") + short_text(low) +
                              (open ? " up to " : " to ") + short_text(high);
    if (!found->is_number()) wanted(name, range, *found);
    const auto number = found->get<double>();
    if (!(number >= low && number <= high) || (open && number <= low)) wanted(name, range, *found);
    value = static_cast<float>(number);
  }
  std::optional<int64_t> integer(const std::string& name, int64_t low, int64_t high) const {
    const json* found = find(name);
    if (found == nullptr) return std::nullopt;
    const std::string range =
        "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
    const bool too_large =
        found->is_number_unsigned() &&
        found->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    if (!found->is_number_integer() || too_large) wanted(name, range, *found);
    const auto number = found->get<int64_t>();
    if (number < low || number > high) wanted(name, range, *found);
    return number;
  }
  [[noreturn]] void wanted(const std::string& name, const std::string& what,
                           const json& found) const {
    refuse(full_name(name), "wanted " + what + ", found " + describe_json(found));
  }
  /// A field that says what is not served here.
  void not_served(const std::string& name, const std::string& but = {}) const {
    const json* found = find(name);
    if (found == nullptr || (found->is_array() && found->empty())) return;
    refuse(full_name(name), "is not served by this server" + but);
  }

 private:
  static std::string short_text(double number) { return json(number).dump(); }

  const json& object_;
  std::string prefix_;
};

void read_logit_bias(const Fields& fields, SamplerOptions& sampler) {
  const json* found = fields.find("logit_bias");
  if (found == nullptr) return;
  if (!found->is_object()) fields.wanted("logit_bias", "an object of token ids", *found);
  for (const auto& [key, value] : found->items()) {
    Token token = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size() || token < 0) {
      refuse("logit_bias", "wanted token ids as keys, found '" + key + "'");
    }
    if (!value.is_number() || !(std::abs(value.get<double>()) <= 100)) {
      refuse("logit_bias", "wanted numbers from -100 to 100, found " + describe_json(value));
    }
    sampler.logit_bias.push_back({token, value.get<float>()});
  }
}

void read_stop(const Fields& fields, std::vector<std::string>& stop) {
  const json* found = fields.find("stop");
  if (found == nullptr) return;
  const auto add = [&](const json& text) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty()) {
      fields.wanted("stop", "a text or a list of texts, none of them empty", text);
    }
    stop.push_back(text.get<std::string>());
  };
  if (!found->is_array()) return add(*found);
  if (found->size() > max_stops) {
    refuse("stop", "wanted up to " + std::to_string(max_stops) + " texts, found " +
                       std::to_string(found->size()));
  }
  for (const json& text : *found) add(text);
}

/// What both kinds of request have.
CompletionRequest read_common(const Fields& fields, const SamplerOptions& defaults) {
  CompletionRequest request;
  request.sampler = defaults;
  SamplerOptions& s = request.sampler;
  if (const json* model = fields.find("model"); model != nullptr && !model->is_string()) {
    fields.wanted("model", "a text", *model);
  }
  fields.read("temperature", s.temperature, 0, 2);
  fields.read("top_p", s.top_p, 0, 1);
  s.top_p = std::max(s.top_p, std::numeric_limits<float>::min());  // 0 is the likeliest alone
  fields.read("min_p", s.min_p, 0, 1);
  fields.read("repeat_penalty", s.repeat_penalty, 0.01, 100);
  fields.read("presence_penalty", s.presence_penalty, -2, 2);
  fields.read("frequency_penalty", s.frequency_penalty, -2, 2);
  if (const auto k = fields.integer("top_k", 0, max_count)) s.top_k = static_cast<size_t>(*k);
  if (const auto seed = fields.integer("seed", std::numeric_limits<int64_t>::min(),
                                       std::numeric_limits<int64_t>::max())) {
    s.seed = static_cast<uint64_t>(*seed);
  }
  read_logit_bias(fields, s);
  read_stop(fields, request.stop);
  request.n = static_cast<size_t>(fields.integer("n", 1, max_choices).value_or(1));
  if (const auto most = fields.integer("max_tokens", 1, max_count)) {
    request.max_tokens = static_cast<size_t>(*most);
  }
  fields.read("ignore_eos", request.ignore_eos);
  fields.read("stream", request.stream);
  if (const json* options = fields.find("stream_options")) {
    if (!options->is_object()) fields.wanted("stream_options", "an object", *options);
    if (!request.stream) refuse("stream_options", "goes with \"stream\": true alone");
    Fields(*options, "stream_options.").read("include_usage", request.include_usage);
  }
  return request;
}

/// A text, or a list of parts that are texts.
std::string read_content(const Fields& message) {
  const json* content = message.find("content");
  if (content == nullptr) refuse(message.full_name("content"), "is missing, wanted a text");
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) {
    message.wanted("content", "a text or a list of parts of type 'text'", *content);
  }
  std::string text;
  for (const json& part : *content) {
    const bool is_text = part.is_object() && part.value("type", json()) == "text" &&
                         part.contains("text") && part["text"].is_string();
    if (!is_text) message.wanted("content", "parts {\"type\": \"text\", \"text\": ...}", part);
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

void read_messages(const Fields& fields, std::vector<ChatMessage>& messages) {
  const json* list = fields.find("messages");
  if (list == nullptr) refuse("messages", "is missing, wanted a list of messages");
  if (!list->is_array() || list->empty()) {
    fields.wanted("messages", "a list of one message or more", *list);
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const json& entry = (*list)[i];
    const std::string name = "messages[" + std::to_string(i) + "]";
    if (!entry.is_object()) refuse(name, "wanted an object, found " + describe_json(entry));
    const Fields message(entry, name + ".");
    const json* role = message.find("role");
    const std::string found = role != nullptr && role->is_string() ? role->get<std::string>() : "";
    if (found != "system" && found != "developer" && found != "user" && found != "assistant") {
      message.wanted("role", "system, developer, user or assistant",
                     role == nullptr ? json() : *role);
    }
    message.not_served("tool_calls");
    messages.push_back({found == "developer" ? "system" : found, read_content(message)});
  }
}

/// A list of token ids; whether a vocabulary has them is not known here.
std::vector<Token> read_tokens(const Fields& fields, const std::string& name, const json& list) {
  std::vector<Token> tokens;
  for (const json& token : list) {
    if (!token.is_number_unsigned() || token.get<uint64_t>() > INT32_MAX) {
      fields.wanted(name, "token ids", token);
    }
    tokens.push_back(token.get<Token>());
  }
  return tokens;
}

void read_prompts(const Fields& fields, CompletionRequest& request) {
  const json* found = fields.find("prompt");
  if (found == nullptr) refuse("prompt", "is missing, wanted a text, tokens or a list of them");
  const auto add = [&](const json& prompt) {
    if (prompt.is_string()) {
      request.prompts.emplace_back(prompt.get<std::string>());
    } else if (prompt.is_array() && !prompt.empty()) {
      request.prompts.emplace_back(read_tokens(fields, "prompt", prompt));
    } else {
      fields.wanted("prompt", "texts or lists of tokens", prompt);
    }
  };
  const bool is_list = found->is_array() && !found->empty() && !found->front().is_number();
  if (!is_list) return add(*found);
  for (const json& prompt : *found) add(prompt);
}

}  // namespace

CompletionRequest read_chat_request(std::string_view body, const SamplerOptions& defaults) {
  const json parsed = parse_body(body);
  const Fields fields(parsed);
  CompletionRequest request = read_common(fields, defaults);
  read_messages(fields, request.messages);
  for (const char* name : {"tools", "functions", "tool_choice", "function_call", "audio"}) {
    const json* found = fields.find(name);
    if (found != nullptr && *found == "none") continue;
    fields.not_served(name);
  }
  if (const json* format = fields.find("response_format")) {
    const bool is_text = format->is_object() && format->value("type", json()) == "text";
    if (!is_text) fields.not_served("response_format", "; only {\"type\": \"text\"} is");
  }
  if (const auto most = fields.integer("max_completion_tokens", 1, max_count)) {
    request.max_tokens = static_cast<size_t>(*most);
  }
  fields.read("logprobs", request.logprobs);
  if (const auto n = fields.integer("top_logprobs", 0, max_top_logprobs)) {
    if (!request.logprobs) refuse("top_logprobs", "goes with \"logprobs\": true alone");
    request.top_logprobs = static_cast<size_t>(*n);
  }
  return request;
}

CompletionRequest read_text_request(std::string_view body, const SamplerOptions& defaults) {
  const json parsed = parse_body(body);
  const Fields fields(parsed);
  CompletionRequest request = read_common(fields, defaults);
  read_prompts(fields, request);
  fields.not_served("suffix");
  fields.not_served("response_format");
  bool echo = false;
  fields.read("echo", echo);
  if (echo) refuse("echo", "is not served by this server");
  if (const auto best_of = fields.integer("best_of", 1, max_count)) {
    if (*best_of != static_cast<int64_t>(request.n)) {
      refuse("best_of", "wanted as many as 'n', as nothing is chosen from");
    }
  }
  if (const auto n = fields.integer("logprobs", 0, max_top_logprobs)) {
    request.logprobs = true;
    request.top_logprobs = static_cast<size_t>(*n);
  }
  if (request.prompts.size() * request.n > max_choices) {
    refuse("prompt", "wanted up to " + std::to_string(max_choices) + " answers, found " +
                         std::to_string(request.prompts.size()) + " prompts times n " +
                         std::to_string(request.n));
  }
  if (!request.max_tokens) request.max_tokens = 16;  // OpenAI's
  return request;
}

std::string read_tokenize_request(std::string_view body) {
  const json parsed = parse_body(body);
  const Fields fields(parsed);
  const json* content = fields.find("content");
  if (content == nullptr || !content->is_string()) {
    fields.wanted("content", "a text", content == nullptr ? json() : *content);
  }
  return content->get<std::string>();
}

std::vector<Token> read_detokenize_request(std::string_view body) {
  const json parsed = parse_body(body);
  const Fields fields(parsed);
  const json* list = fields.find("tokens");
  if (list == nullptr || !list->is_array()) {
    fields.wanted("tokens", "a list of token ids", list == nullptr ? json() : *list);
  }
  return read_tokens(fields, "tokens", *list);
}

}  // namespace vga
