#pragma once

#include <future>
#include <memory>
#include <vector>

#include "vga/scheduler.h"

namespace vga::test {

/// An answer as it came.
struct Answer {
  std::vector<Token> tokens;
  std::vector<AnswerToken> scored;
  AnswerReport report;
};

/// A request whose answer can be waited for.
struct Asked {
  explicit Asked(std::vector<Token> prompt, size_t max_tokens = 8) {
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    request.ignore_end = true;
    request.sampler.seed = 7;
    request.on_token = [answer = answer](const AnswerToken& token) {
      answer->tokens.push_back(token.token);
      answer->scored.push_back(token);
      return true;
    };
    request.on_end = [answer = answer, done = done](const AnswerReport& report) {
      answer->report = report;
      done->set_value();
    };
    future = done->get_future();
  }

  std::shared_ptr<Answer> answer = std::make_shared<Answer>();
  std::shared_ptr<std::promise<void>> done = std::make_shared<std::promise<void>>();
  std::future<void> future;
  AnswerRequest request;
};

/// Submits them at once.
inline std::vector<std::shared_ptr<Scheduler::Job>> submit(Scheduler& scheduler,
                                                           const std::vector<Asked*>& asked) {
  std::vector<AnswerRequest> requests;
  for (Asked* each : asked) requests.push_back(each->request);
  return scheduler.submit(std::move(requests));
}

/// What a session of its own generates.
inline std::vector<Token> alone(const Model& model, const SessionOptions& options,
                                const AnswerRequest& request) {
  Session session(model, options);
  Sampler sampler(request.sampler);
  session.prefill(request.prompt);
  std::vector<Token> tokens;
  while (true) {
    tokens.push_back(session.sample(sampler));
    sampler.accept(tokens.back());
    if (tokens.size() == request.max_tokens) return tokens;
    session.append(tokens.back());
  }
}

}  // namespace vga::test
