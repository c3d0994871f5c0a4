#include "server/completions.h"

#include <cmath>
#include <deque>

#include <boost/asio/this_coro.hpp>

#include "base/clock.h"
#include "base/text.h"
#include "server/answer_json.h"
#include "server/answer_text.h"
#include "server/api_error.h"
#include "server/chat_prompt.h"
#include "server/mailbox.h"

namespace vga {
namespace {

using Json = nlohmann::ordered_json;
using boost::asio::awaitable;

/// Pieces that may lie ready for a client that reads slowly; beyond that its sequence waits.
constexpr size_t max_pieces = 256;
/// A silent stream says so often that it is alive, if the scheduler is.
constexpr std::chrono::seconds ping_interval{15};

/// What became of a step of one choice.
struct Piece {
  size_t choice = 0;
  std::string text = {};
  std::string thought = {};
  std::vector<ScoredToken> scored = {};
  std::optional<AnswerReport> report = {};  // in the last one
};

using Box = Mailbox<Piece>;

/// All answers to one request, on their way. When it goes, what still runs is cancelled.
class Exchange {
 public:
  explicit Exchange(std::shared_ptr<Box> box) : box_(std::move(box)) {}
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  ~Exchange() {
    for (const auto& job : jobs_) job->cancel();
  }

  void run(std::vector<std::shared_ptr<Scheduler::Job>> jobs) {
    jobs_ = std::move(jobs);
    left_ = jobs_.size();
  }

  bool is_done() const { return left_ == 0; }
  awaitable<std::vector<Piece>> take() {
    std::vector<Piece> pieces = co_await box_->take(ping_interval);
    for (const Piece& piece : pieces) {
      if (piece.report) --left_;
    }
    if (pieces.size() >= max_pieces) {  // it was full, and there is room again
      for (const auto& job : jobs_) job->nudge();
    }
    co_return pieces;
  }

 private:
  std::shared_ptr<Box> box_;
  std::vector<std::shared_ptr<Scheduler::Job>> jobs_;
  size_t left_ = 0;
};

/// Turns the tokens of a choice into pieces, in the scheduler's thread.
class Choice {
 public:
  Choice(size_t index, std::shared_ptr<Box> box, Metrics& metrics, bool scores,
         std::unique_ptr<AnswerText> text)
      : index_(index),
        box_(std::move(box)),
        metrics_(metrics),
        scores_(scores),
        text_(std::move(text)) {}

  bool take(const AnswerToken& token) {
    const auto now = Clock::now();
    if (has_token_) {
      metrics_.next_token(std::chrono::duration<double>(now - last_).count());
    } else {
      metrics_.first_token(std::chrono::duration<double>(now - last_).count());
    }
    has_token_ = true;
    last_ = now;
    std::string characters;
    AnswerText::Piece piece = text_->add(token.token, &characters);
    if (scores_) scored_.push_back({token, std::move(characters)});
    // Tokens of a character that is not complete go with the one that completes it.
    if (!piece.text.empty() || !piece.thought.empty()) {
      box_->put(
          {index_, std::move(piece.text), std::move(piece.thought), std::exchange(scored_, {})});
    }
    return !text_->stopped();
  }

  void end(AnswerReport report) {
    metrics_.answer(report);
    AnswerText::Piece piece = text_->finish();
    box_->put({index_, std::move(piece.text), std::move(piece.thought), std::exchange(scored_, {}),
               std::move(report)});
  }

 private:
  size_t index_;
  std::shared_ptr<Box> box_;
  Metrics& metrics_;
  bool scores_;
  std::unique_ptr<AnswerText> text_;
  std::vector<ScoredToken> scored_;
  bool has_token_ = false;
  Clock::time_point last_ = Clock::now();
};

const char* finish_reason(const AnswerReport& report) {
  return report.end == AnswerEnd::length ? "length" : "stop";
}

/// Sums over the choices of a request.
class Usage {
 public:
  explicit Usage(size_t choices_per_prompt, std::vector<size_t> forgotten)
      : per_prompt_(choices_per_prompt), forgotten_(std::move(forgotten)) {}

  void add(size_t choice, const AnswerReport& report) {
    if (choice % per_prompt_ == 0) {
      prompt_ += report.prompt_tokens;
      cached_ += report.cached_tokens;
      evicted_ += forgotten_[choice / per_prompt_];
    }
    evicted_ += report.evicted_tokens;
    tokens_ += report.tokens;
    if (report.tokens > 0) ++choices_;
    read_ += report.prompt_tokens - report.cached_tokens;
    prefill_seconds_ = std::max(prefill_seconds_, report.prefill_seconds);
    decode_seconds_ = std::max(decode_seconds_, report.decode_seconds);
  }

  Json json() const {
    return {{"prompt_tokens", prompt_},
            {"completion_tokens", tokens_},
            {"total_tokens", prompt_ + tokens_},
            {"prompt_tokens_details", {{"cached_tokens", cached_}}},
            {"evicted_tokens", evicted_}};
  }
  Json timings() const {
    // The first token came with the prompt.
    const double rate =
        decode_seconds_ > 0 ? static_cast<double>(tokens_ - choices_) / decode_seconds_ : 0;
    return {{"prompt_n", read_},
            {"prompt_ms", 1000 * prefill_seconds_},
            {"predicted_n", tokens_},
            {"predicted_ms", 1000 * decode_seconds_},
            {"predicted_per_second", rate}};
  }

 private:
  size_t per_prompt_;
  std::vector<size_t> forgotten_;  // (prompts)
  size_t prompt_ = 0, cached_ = 0, tokens_ = 0, evicted_ = 0, read_ = 0;
  size_t choices_ = 0;  // that have a token
  double prefill_seconds_ = 0, decode_seconds_ = 0;
};

/// What ended an answer that should have gone on.
std::optional<ApiError> failure_of(const AnswerReport& report) {
  if (report.end == AnswerEnd::failed) return ApiError(500, report.error);
  if (report.end == AnswerEnd::cancelled) {
    return ApiError(503, "the server is being shut down");
  }
  return std::nullopt;
}

std::string event(const std::string& data) {
  return "data: " + data + "\n\n";
}

/// A streamed answer: gives the body piece by piece.
class Stream {
 public:
  Stream(std::shared_ptr<Exchange> exchange, AnswerJson json, Usage usage,
         const Tokenizer& tokenizer, const Scheduler& scheduler, size_t n_choices, bool is_chat,
         bool include_usage)
      : exchange_(std::move(exchange)),
        json_(std::move(json)),
        usage_(std::move(usage)),
        tokenizer_(tokenizer),
        scheduler_(scheduler),
        offsets_(n_choices),
        include_usage_(include_usage) {
    if (!is_chat) return;
    for (size_t i = 0; i < n_choices; ++i) begin_ += event(chunk(json_.opening(i)));
  }

  awaitable<std::optional<std::string>> next() {
    if (!begin_.empty()) co_return std::exchange(begin_, {});
    if (ended_) co_return std::nullopt;
    std::string out;
    while (out.empty()) {
      const uint64_t steps = scheduler_.steps();
      for (const Piece& piece : co_await exchange_->take()) {
        out += say(piece);
        if (ended_) co_return out;
      }
      if (exchange_->is_done()) {
        ended_ = true;
        if (include_usage_) out += event(usage_chunk());
        out += event("[DONE]");
      } else if (out.empty() && scheduler_.steps() != steps) {
        out = ": ping\n\n";
      }
    }
    co_return out;
  }

 private:
  std::string chunk(Json choice) const {
    Json chunk = json_.chunk(Json::array({std::move(choice)}));
    if (include_usage_) chunk["usage"] = nullptr;
    return dump(chunk);
  }

  std::string usage_chunk() const {
    Json chunk = json_.chunk(Json::array());
    chunk["usage"] = usage_.json();
    chunk["timings"] = usage_.timings();
    return dump(chunk);
  }

  std::string say(const Piece& piece) {
    std::string out;
    if (!piece.text.empty() || !piece.thought.empty() || !piece.scored.empty()) {
      size_t& offset = offsets_[piece.choice];
      out = event(chunk(json_.piece(piece.choice, piece.text, piece.thought,
                                    json_.logprobs(piece.scored, tokenizer_, offset))));
      offset += n_characters(piece.text);
    }
    if (!piece.report) return out;
    if (const auto failure = failure_of(*piece.report)) {
      ended_ = true;
      return out + event(error_body(*failure));
    }
    usage_.add(piece.choice, *piece.report);
    Json ending =
        json_.chunk(Json::array({json_.ending(piece.choice, finish_reason(*piece.report))}));
    if (include_usage_) ending["usage"] = nullptr;
    ending["timings"] = usage_.timings();
    return out + event(dump(ending));
  }

  std::shared_ptr<Exchange> exchange_;
  AnswerJson json_;
  Usage usage_;
  const Tokenizer& tokenizer_;
  const Scheduler& scheduler_;
  std::vector<size_t> offsets_;  // (choices) bytes of text so far
  bool include_usage_;
  std::string begin_;
  bool ended_ = false;
};

/// The whole answer as one body. An ApiError if a choice failed.
awaitable<http::Response> collect(Exchange& exchange, const AnswerJson& json, Usage usage,
                                  const Tokenizer& tokenizer, size_t n_choices) {
  struct Collected {
    std::string text;
    std::string thought;
    std::vector<ScoredToken> scored;
    AnswerReport report;
  };
  std::vector<Collected> choices(n_choices);
  while (!exchange.is_done()) {
    for (Piece& piece : co_await exchange.take()) {
      Collected& choice = choices[piece.choice];
      choice.text += piece.text;
      choice.thought += piece.thought;
      std::ranges::move(piece.scored, std::back_inserter(choice.scored));
      if (piece.report) choice.report = *piece.report;
    }
  }
  Json list = Json::array();
  for (size_t i = 0; i < n_choices; ++i) {
    const Collected& choice = choices[i];
    if (const auto failure = failure_of(choice.report)) throw ApiError(*failure);
    usage.add(i, choice.report);
    list.push_back(json.choice(i, choice.text, choice.thought,
                               json.logprobs(choice.scored, tokenizer, 0),
                               finish_reason(choice.report)));
  }
  Json body = json.whole(std::move(list));
  body["usage"] = usage.json();
  body["timings"] = usage.timings();
  co_return http::Response{.body = dump(body)};
}

}  // namespace

Completions::Completions(const Model& model, Scheduler& scheduler, Metrics& metrics,
                         std::optional<ChatTemplate> chat_template, std::string model_name)
    : vocab_size_(model.config().vocab_size),
      tokenizer_(model.tokenizer()),
      scheduler_(scheduler),
      metrics_(metrics),
      chat_template_(std::move(chat_template)),
      model_name_(std::move(model_name)) {
  if (!chat_template_) return;
  begins_with_thought_ = opens_thought(
      chat_template_->render(std::array{ChatMessage{"user", "y"}},
                             {.ends = text_ends(tokenizer_), .now = std::time(nullptr)}));
}

ApiError Completions::busy() const {
  ApiError error(503, scheduler_.state().draining ? "the server is being shut down"
                                                  : "all places are taken, and so is the queue");
  const double seconds = std::max(1.0, std::ceil(metrics_.mean_seconds()));
  error.headers["Retry-After"] = std::to_string(static_cast<int64_t>(seconds));
  return error;
}

void Completions::check_room(const std::vector<Prompt>& prompts, bool is_chat) const {
  if (scheduler_.slides()) return;
  for (const Prompt& prompt : prompts) {
    if (prompt.tokens.size() < scheduler_.context()) continue;
    throw ApiError(400,
                   "This model's maximum context length is " +
                       std::to_string(scheduler_.context()) + " tokens; the " +
                       (is_chat ? "messages have " : "prompt has ") +
                       std::to_string(prompt.tokens.size()) + ".",
                   is_chat ? "messages" : "prompt", "context_length_exceeded");
  }
}

awaitable<http::Response> Completions::chat(CompletionRequest request) {
  if (!chat_template_) {
    throw ApiError(400,
                   "this model has no chat template; /v1/completions goes on with a text, or "
                   "start the server with --chat-template",
                   "messages");
  }
  ChatPrompt prompt;
  try {
    const auto window = scheduler_.slides() ? std::optional(scheduler_.context()) : std::nullopt;
    prompt =
        make_chat_prompt(*chat_template_, request.messages, tokenizer_, std::time(nullptr), window);
  } catch (const Error& error) {
    throw ApiError(400, error.what(), "messages");
  }
  if (prompt.tokens.empty()) throw ApiError(400, "the conversation has no tokens", "messages");
  std::vector<Prompt> prompts;
  prompts.push_back({std::move(prompt.tokens), prompt.forgotten});
  co_return co_await answer(std::move(request), std::move(prompts), true);
}

awaitable<http::Response> Completions::text(CompletionRequest request) {
  std::vector<Prompt> prompts;
  for (auto& prompt : request.prompts) {
    if (auto* tokens = std::get_if<std::vector<Token>>(&prompt)) {
      for (const Token token : *tokens) {
        if (static_cast<size_t>(token) < vocab_size_) continue;
        throw ApiError(400,
                       "'prompt': wanted tokens below " + std::to_string(vocab_size_) + ", found " +
                           std::to_string(token),
                       "prompt");
      }
      prompts.push_back({std::move(*tokens)});
    } else {
      prompts.push_back({tokenizer_.encode_prompt(std::get<std::string>(prompt))});
    }
    if (prompts.back().tokens.empty()) {
      throw ApiError(400, "'prompt': is empty, wanted at least one token", "prompt");
    }
  }
  co_return co_await answer(std::move(request), std::move(prompts), false);
}

awaitable<http::Response> Completions::answer(CompletionRequest request,
                                              std::vector<Prompt> prompts, bool is_chat) {
  check_room(prompts, is_chat);
  for (const LogitBias& bias : request.sampler.logit_bias) {
    if (static_cast<size_t>(bias.token) < vocab_size_) continue;
    throw ApiError(
        400, "'logit_bias': token " + std::to_string(bias.token) + " is not of the vocabulary",
        "logit_bias");
  }
  const auto executor = co_await boost::asio::this_coro::executor;
  const auto box = std::make_shared<Box>(executor);
  std::vector<AnswerRequest> answers;
  std::vector<size_t> forgotten;
  for (const Prompt& prompt : prompts) {
    forgotten.push_back(prompt.forgotten);
    for (size_t i = 0; i < request.n; ++i) {
      auto text = std::make_unique<AnswerText>(tokenizer_, request.stop, is_chat,
                                               begins_with_thought_, !is_chat);
      const auto choice = std::make_shared<Choice>(answers.size(), box, metrics_, request.logprobs,
                                                   std::move(text));
      AnswerRequest answer;
      answer.prompt = prompt.tokens;
      answer.sampler = request.sampler;
      answer.sampler.seed += i;
      answer.max_tokens = request.max_tokens.value_or(SIZE_MAX);
      answer.ignore_end = request.ignore_eos;
      answer.wants_probabilities = request.logprobs;
      answer.n_likeliest = request.top_logprobs;
      answer.can_take = [box] { return box->waiting() < max_pieces; };
      answer.on_token = [choice](const AnswerToken& token) { return choice->take(token); };
      answer.on_end = [choice](const AnswerReport& report) { choice->end(report); };
      answers.push_back(std::move(answer));
    }
  }
  const size_t n_choices = answers.size();
  if (const size_t most = scheduler_.n_sequences() + scheduler_.max_waiting(); n_choices > most) {
    throw ApiError(400,
                   "wanted up to " + std::to_string(most) + " answers, as many as the server has " +
                       "places, found " + std::to_string(n_choices),
                   prompts.size() > 1 ? "prompt" : "n");
  }
  const auto exchange = std::make_shared<Exchange>(box);
  auto jobs = scheduler_.submit(std::move(answers));
  if (jobs.empty()) throw busy();
  exchange->run(std::move(jobs));
  for (const size_t tokens : forgotten) metrics_.evicted(tokens);

  AnswerJson json(is_chat, model_name_);
  Usage usage(request.n, std::move(forgotten));
  if (!request.stream) {
    co_return co_await collect(*exchange, json, std::move(usage), tokenizer_, n_choices);
  }
  const auto stream =
      std::make_shared<Stream>(exchange, std::move(json), std::move(usage), tokenizer_, scheduler_,
                               n_choices, is_chat, request.include_usage);
  http::Response response{.type = "text/event-stream"};
  response.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  response.pieces = [stream] { return stream->next(); };
  co_return response;
}

}  // namespace vga
