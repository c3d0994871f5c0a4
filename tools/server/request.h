#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "vga/chat_template.h"
#include "vga/sampler.h"
#include "vga/tokenizer.h"

namespace vga {

/// What a request for text asks for, checked. Names are those of OpenAI's API and its common
/// extensions.
struct CompletionRequest {
  /// For /v1/chat/completions.
  std::vector<ChatMessage> messages;
  /// For /v1/completions: one or several, texts or tokens.
  std::vector<std::variant<std::string, std::vector<Token>>> prompts;

  SamplerOptions sampler;
  std::optional<size_t> max_tokens;
  size_t n = 1;  // answers to each prompt
  std::vector<std::string> stop;
  bool stream = false;
  bool include_usage = false;  // in a stream
  bool ignore_eos = false;
  bool logprobs = false;
  size_t top_logprobs = 0;
};

/// Reads the body of a request; what it does not say is as in `defaults`. An ApiError with status
/// 400 that names the field. Unknown fields are ignored; those that would change what is answered,
/// but are not served, are not.
CompletionRequest read_chat_request(std::string_view body, const SamplerOptions& defaults);
CompletionRequest read_text_request(std::string_view body, const SamplerOptions& defaults);

/// {"content": "..."} of /tokenize, {"tokens": [...]} of /detokenize.
std::string read_tokenize_request(std::string_view body);
std::vector<Token> read_detokenize_request(std::string_view body);

/// Most answers that one request may ask for, all prompts together.
constexpr size_t max_choices = 128;

}  // namespace vga
