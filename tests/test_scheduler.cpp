// The scheduler: what it answers is what a session alone would, whatever else runs.

#include <atomic>

#include <gtest/gtest.h>

#include "asked.h"
#include "gguf_image.h"
#include "scratch_file.h"
#include "vga/scheduler.h"

namespace vga::test {
namespace {

class SchedulerThreads : public testing::Test {
 protected:
  static constexpr size_t context = 64;

  SchedulerOptions options(size_t n_sequences, size_t max_waiting = 64) const {
    SchedulerOptions options;
    options.session = {
        .context = context, .n_sequences = n_sequences, .n_threads = 1, .max_batch = 16};
    options.max_waiting = max_waiting;
    options.step_rows = 4;
    return options;
  }

  std::vector<Token> prompt(size_t n, Token first) const {
    const auto vocab = static_cast<Token>(model.config().vocab_size);
    std::vector<Token> tokens;
    for (size_t i = 0; i < n; ++i) {
      tokens.push_back((first + static_cast<Token>(i * i)) % vocab);
    }
    return tokens;
  }

  std::vector<Token> alone(const AnswerRequest& request) const {
    return test::alone(model, {.context = context, .n_threads = 1}, request);
  }

  const TemporaryDirectory directory;
  const Model model =
      Model::load(directory.write("tiny.gguf", tiny_model().bytes()), {.device = "cpu"});
};

TEST_F(SchedulerThreads, ManyAnswersAtOnceAreThoseOfEachAlone) {
  Scheduler scheduler(model, options(3));
  std::vector<std::unique_ptr<Asked>> asked;
  for (size_t i = 0; i < 12; ++i) {
    asked.push_back(std::make_unique<Asked>(prompt(1 + 4 * i, static_cast<Token>(i)), 1 + i % 9));
    asked.back()->request.sampler.temperature = i % 2 == 0 ? 0 : 1.5f;
    asked.back()->request.sampler.top_k = i % 3 == 0 ? 0 : 10 * i;
    asked.back()->request.sampler.presence_penalty = i % 4 == 0 ? 1 : 0;
    ASSERT_EQ(submit(scheduler, {asked.back().get()}).size(), 1u);
  }
  for (const auto& each : asked) {
    each->future.wait();
    EXPECT_EQ(each->answer->tokens, alone(each->request));
    EXPECT_EQ(each->answer->report.end, AnswerEnd::length);
    EXPECT_EQ(each->answer->report.tokens, each->request.max_tokens);
    EXPECT_EQ(each->answer->report.prompt_tokens, each->request.prompt.size());
  }
}

TEST_F(SchedulerThreads, ASequenceGoesOnWithWhatItHasRead) {
  Scheduler scheduler(model, options(2));
  Asked first(prompt(40, 3));
  submit(scheduler, {&first});
  first.future.wait();
  EXPECT_EQ(first.answer->report.cached_tokens, 0u);

  Asked again(prompt(40, 3));  // all of it is there, but its last token is read for its logits
  submit(scheduler, {&again});
  again.future.wait();
  EXPECT_EQ(again.answer->report.cached_tokens, 39u);
  EXPECT_EQ(again.answer->tokens, first.answer->tokens);

  Asked other(prompt(40, 4));  // takes the sequence that nobody used
  submit(scheduler, {&other});
  other.future.wait();
  EXPECT_EQ(other.answer->report.cached_tokens, 0u);

  std::vector<Token> longer = first.request.prompt;
  longer.insert(longer.end(), first.answer->tokens.begin(), first.answer->tokens.end());
  Asked goes_on(longer);
  submit(scheduler, {&goes_on});
  goes_on.future.wait();
  EXPECT_EQ(goes_on.answer->report.cached_tokens, longer.size() - 1);
  EXPECT_EQ(goes_on.answer->tokens, alone(goes_on.request));
}

TEST_F(SchedulerThreads, AQueueHasItsLength) {
  Scheduler scheduler(model, options(1, 2));
  std::atomic<bool> open = false;
  Asked running(prompt(3, 1));
  running.request.can_take = [&] { return open.load(); };
  auto jobs = submit(scheduler, {&running});
  while (scheduler.state().running == 0) std::this_thread::yield();
  Asked second(prompt(3, 2)), third(prompt(3, 3)), fourth(prompt(3, 4));
  EXPECT_EQ(submit(scheduler, {&second, &third, &fourth}).size(), 0u);  // all or none
  EXPECT_EQ(submit(scheduler, {&second, &third}).size(), 2u);
  EXPECT_EQ(submit(scheduler, {&fourth}).size(), 0u);
  EXPECT_EQ(scheduler.state().waiting, 2u);
  open = true;
  jobs[0]->nudge();
  for (Asked* each : {&running, &second, &third}) {
    each->future.wait();
    EXPECT_EQ(each->answer->tokens, alone(each->request));
  }
}

TEST_F(SchedulerThreads, CancellingEndsItWhereverItIs) {
  Scheduler scheduler(model, options(1));
  Asked running(prompt(3, 1));
  running.request.can_take = [] { return false; };
  const auto first = submit(scheduler, {&running});
  while (scheduler.state().running == 0) std::this_thread::yield();
  Asked waiting(prompt(3, 2));
  const auto second = submit(scheduler, {&waiting});
  second[0]->cancel();
  waiting.future.wait();
  EXPECT_EQ(waiting.answer->report.end, AnswerEnd::cancelled);
  EXPECT_EQ(scheduler.state().running, 1u);
  first[0]->cancel();
  running.future.wait();
  EXPECT_EQ(running.answer->report.end, AnswerEnd::cancelled);
  Asked next(prompt(3, 2));
  submit(scheduler, {&next});
  next.future.wait();
  EXPECT_EQ(next.answer->report.end, AnswerEnd::length);
}

TEST_F(SchedulerThreads, DrainingLetsWhatRunsComeToItsEnd) {
  Asked running(prompt(3, 1), 20), waiting(prompt(3, 2)), late(prompt(3, 3)), endless(prompt(2, 1));
  std::atomic<bool> open = false;
  running.request.can_take = [&] { return open.load(); };
  endless.request.can_take = [] { return false; };
  {
    Scheduler scheduler(model, options(2));
    const auto jobs = submit(scheduler, {&running, &endless});
    while (scheduler.state().running < 2) std::this_thread::yield();
    submit(scheduler, {&waiting});
    scheduler.drain();
    waiting.future.wait();
    EXPECT_EQ(waiting.answer->report.end, AnswerEnd::cancelled);
    EXPECT_TRUE(submit(scheduler, {&late}).empty());
    open = true;
    jobs[0]->nudge();
    running.future.wait();
    EXPECT_EQ(running.answer->tokens, alone(running.request));
  }
  endless.future.wait();  // the scheduler's end is its own
  EXPECT_EQ(endless.answer->report.end, AnswerEnd::cancelled);
}

TEST_F(SchedulerThreads, AnAnswerEndsWithItsContext) {
  Scheduler scheduler(model, options(1));
  Asked asked(prompt(60, 1), 100);
  submit(scheduler, {&asked});
  asked.future.wait();
  EXPECT_EQ(asked.answer->report.end, AnswerEnd::length);
  EXPECT_EQ(asked.answer->tokens.size(), context - 60);
  Asked too_long(prompt(context, 1));
  EXPECT_THROW(submit(scheduler, {&too_long}), ContextFull);
  Asked no_token({-1});
  EXPECT_THROW(submit(scheduler, {&no_token}), Error);
}

TEST_F(SchedulerThreads, ProbabilitiesAreTheModels) {
  Scheduler scheduler(model, options(1));
  Asked asked(prompt(5, 1), 4);
  asked.request.wants_probabilities = true;
  asked.request.n_likeliest = 3;
  asked.request.sampler.temperature = 0;
  submit(scheduler, {&asked});
  asked.future.wait();
  Session session(model, {.context = context, .n_threads = 1});
  session.prefill(asked.request.prompt);
  for (const AnswerToken& token : asked.answer->scored) {
    const std::span<const float> logits = session.logits();
    double sum = 0;
    for (const float logit : logits) sum += std::exp(double{logit});
    const auto log_probability = [&](Token of) {
      return logits[static_cast<size_t>(of)] - std::log(sum);
    };
    EXPECT_NEAR(token.log_probability, log_probability(token.token), 1e-5);
    ASSERT_EQ(token.likeliest.size(), 3u);
    EXPECT_EQ(token.likeliest[0].token, token.token);
    for (const Candidate& candidate : token.likeliest) {
      EXPECT_NEAR(candidate.logit, log_probability(candidate.token), 1e-5);
    }
    EXPECT_GE(token.likeliest[0].logit, token.likeliest[2].logit);
    session.append(token.token);
  }
}

// A receiver that reads on may make more sequences decode than a batch of its own size had rows
// for.
TEST_F(SchedulerThreads, ABatchHasARowForEverySequence) {
  SchedulerOptions with = options(9);
  with.session.max_batch = 4;
  Scheduler scheduler(model, with);
  std::vector<std::unique_ptr<Asked>> asked;
  for (size_t i = 0; i < 9; ++i) {
    asked.push_back(std::make_unique<Asked>(prompt(3, static_cast<Token>(i)), 40));
    submit(scheduler, {asked.back().get()});
  }
  for (const auto& each : asked) {
    each->future.wait();
    EXPECT_EQ(each->answer->report.error, "");
    EXPECT_EQ(each->answer->tokens, alone(each->request));
  }
}

TEST_F(SchedulerThreads, TokensOutOfRangeAreRefusedBeforeTheyMeetOthers) {
  Scheduler scheduler(model, options(1));
  const auto vocab = static_cast<Token>(model.config().vocab_size);
  for (const Token token : {vocab, Token{-1}}) {
    Asked biased(prompt(3, 1));
    biased.request.sampler.logit_bias = {{token, 1}};
    EXPECT_THROW(submit(scheduler, {&biased}), Error);
    Asked asked({token});
    EXPECT_THROW(submit(scheduler, {&asked}), Error);
  }
}

TEST_F(SchedulerThreads, AWindowGoesOnForEver) {
  SchedulerOptions with = options(2);
  with.session.context = 0;
  with.session.window = 24;
  Scheduler scheduler(model, with);
  Asked asked(prompt(50, 1), 100);
  submit(scheduler, {&asked});
  asked.future.wait();
  EXPECT_EQ(asked.answer->tokens.size(), 100u);
  EXPECT_EQ(asked.answer->report.evicted_tokens, 50u + 99 + 1 - 24);
  Asked again(prompt(50, 1), 3);  // the window slid too far: it is read anew
  submit(scheduler, {&again});
  again.future.wait();
  EXPECT_EQ(again.answer->tokens,
            std::vector(asked.answer->tokens.begin(), asked.answer->tokens.begin() + 3));
}

}  // namespace
}  // namespace vga::test
