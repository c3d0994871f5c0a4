#pragma once

#include <memory>
#include <optional>
#include <string>

#include <boost/asio/any_io_executor.hpp>

#include "server/api_error.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/request.h"
#include "vga/chat_template.h"
#include "vga/scheduler.h"

namespace vga {

/// Answers requests for text in OpenAI's form, whole or as a stream of events.
class Completions {
 public:
  /// All of these must live longer. An Error if the model has no tokenizer. Without a
  /// `chat_template` conversations are refused.
  Completions(const Model& model, Scheduler& scheduler, Metrics& metrics,
              std::optional<ChatTemplate> chat_template, std::string model_name);

  /// An ApiError for what is wrong with the request. What is right has been read and queued when a
  /// stream begins, so that nothing but the computation itself can still fail.
  boost::asio::awaitable<http::Response> chat(CompletionRequest request);
  boost::asio::awaitable<http::Response> text(CompletionRequest request);

  bool has_chat_template() const { return chat_template_.has_value(); }

 private:
  struct Prompt {
    std::vector<Token> tokens;
    size_t forgotten = 0;  // tokens of the conversation that were left out
  };
  boost::asio::awaitable<http::Response> answer(CompletionRequest request,
                                                std::vector<Prompt> prompts, bool is_chat);
  void check_room(const std::vector<Prompt>& prompts, bool is_chat) const;
  ApiError busy() const;

  size_t vocab_size_;
  const Tokenizer& tokenizer_;
  Scheduler& scheduler_;
  Metrics& metrics_;
  std::optional<ChatTemplate> chat_template_;
  bool begins_with_thought_ = false;
  std::string model_name_;
};

}  // namespace vga
