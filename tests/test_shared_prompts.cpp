/// Prompts that begin alike: the scheduler reads the beginning once, and answers as ever. How much
/// is read is counted in rows.

#include <atomic>

#include <gtest/gtest.h>

#include "asked.h"
#include "gguf_image.h"
#include "logits.h"

namespace vga::test {
namespace {

/// A beginning of n tokens, which goes on for `more` tokens in the `branch`-th way.
std::vector<Token> prompt(size_t n, size_t more, Token branch) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < n; ++i)
    tokens.push_back(static_cast<Token>((7 * i * i + 3 * i) % tiny_vocab));
  for (size_t i = 0; i < more; ++i) {
    tokens.push_back(static_cast<Token>((i * i + static_cast<size_t>(branch)) % tiny_vocab));
  }
  return tokens;
}

class SchedulerShares : public testing::Test {
 protected:
  SchedulerOptions options(size_t n_sequences) {
    SchedulerOptions options;
    options.session = {.context = 300, .n_sequences = n_sequences, .n_threads = 1, .max_batch = 16};
    options.on_step = [this](size_t n) {
      rows += n;
      ++steps;
      if (after_step) after_step(steps);
    };
    return options;
  }
  Model load(const GgufImage& image) const {
    return Model::load(directory_.write("m.gguf", image.bytes()), {.device = "cpu"});
  }
  static void expect_alone(const Model& model, const SessionOptions& with, Asked& asked) {
    asked.future.wait();
    EXPECT_EQ(asked.answer->report.end, AnswerEnd::length);
    SessionOptions one = with;
    one.n_sequences = 1;
    EXPECT_EQ(asked.answer->tokens, alone(model, one, asked.request));
  }

  /// Rows of all steps, once no more answers than that are left; the last step is counted when its
  /// answers have ended.
  size_t rows_of(const Scheduler& scheduler, size_t left = 0) const {
    while (scheduler.state().running > left) std::this_thread::yield();
    return rows;
  }

  std::atomic<size_t> rows = 0;
  std::atomic<size_t> steps = 0;
  std::function<void(size_t)> after_step;  // set before the scheduler is made

 private:
  TemporaryDirectory directory_;
};

TEST_F(SchedulerShares, ABeginningIsReadOnce) {
  const Model model = load(tiny_model());
  const SchedulerOptions with = options(4);
  Scheduler scheduler(model, with);
  std::vector<std::unique_ptr<Asked>> asked;
  std::vector<Asked*> at_once;
  for (Token i = 0; i < 4; ++i) {
    asked.push_back(std::make_unique<Asked>(prompt(100, 10, i + 1), 1));
    at_once.push_back(asked.back().get());
  }
  ASSERT_EQ(submit(scheduler, at_once).size(), 4u);
  for (const auto& each : asked) expect_alone(model, with.session, *each);
  EXPECT_EQ(rows_of(scheduler), 100u + 4 * 10);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(asked[i]->answer->report.cached_tokens, i == 0 ? 0u : 100u);
  }
}

// What several answers to one prompt are, where there is not a place for each.
TEST_F(SchedulerShares, AllOfAPromptButItsLastToken) {
  const Model model = load(tiny_model());
  const SchedulerOptions with = options(3);
  Scheduler scheduler(model, with);
  std::vector<std::unique_ptr<Asked>> asked;
  std::vector<Asked*> at_once;
  for (uint64_t i = 0; i < 5; ++i) {
    asked.push_back(std::make_unique<Asked>(prompt(120, 0, 0), 6));
    asked.back()->request.sampler.seed = i;
    at_once.push_back(asked.back().get());
  }
  ASSERT_EQ(submit(scheduler, at_once).size(), 5u);
  for (const auto& each : asked) expect_alone(model, with.session, *each);
  EXPECT_EQ(rows_of(scheduler), 120u + 4 + 5 * 5);
}

TEST_F(SchedulerShares, BeginningsWithinBeginnings) {
  const Model model = load(tiny_model());
  const SchedulerOptions with = options(4);
  Scheduler scheduler(model, with);
  const auto branch = [](size_t n, Token way, size_t more) {
    auto tokens = prompt(50, n, way);
    for (size_t i = 0; i < more; ++i) tokens.push_back(static_cast<Token>((i + more) % tiny_vocab));
    return tokens;
  };
  Asked a(branch(0, 0, 30), 1), b(branch(60, 1, 30), 1), c(branch(60, 1, 31), 1),
      short_one(prompt(15, 20, 2), 1);
  submit(scheduler, {&a, &b, &c, &short_one});
  for (Asked* each : {&a, &b, &c, &short_one}) expect_alone(model, with.session, *each);
  const auto cached = [](const Asked& of) { return of.answer->report.cached_tokens; };
  EXPECT_EQ(cached(a), 0u);
  EXPECT_GE(cached(b), 50u);
  EXPECT_LE(cached(b), 52u);  // the ways may begin alike
  EXPECT_GE(cached(c), 110u);
  EXPECT_LE(cached(c), 112u);
  EXPECT_EQ(cached(short_one), 0u);  // which is not worth a copy
}

TEST_F(SchedulerShares, WhatABusySequenceHasRead) {
  const Model model = load(tiny_model());
  const SchedulerOptions with = options(2);
  Scheduler scheduler(model, with);
  std::atomic<bool> open = true;
  Asked busy(prompt(80, 0, 0), 20), other(prompt(80, 5, 3), 4);
  const auto take = busy.request.on_token;
  busy.request.on_token = [&, take](const AnswerToken& token) {
    if (busy.answer->tokens.size() == 2) open = false;
    return take(token);
  };
  busy.request.can_take = [&] { return open.load(); };
  const auto jobs = submit(scheduler, {&busy});
  while (open) std::this_thread::yield();
  submit(scheduler, {&other});
  expect_alone(model, with.session, other);
  EXPECT_EQ(other.answer->report.cached_tokens, 80u);
  open = true;
  jobs[0]->nudge();
  expect_alone(model, with.session, busy);
  EXPECT_EQ(rows_of(scheduler), 80u + 19 + 5 + 3);
}

TEST_F(SchedulerShares, AConversationIsNotCutForItsBeginning) {
  const Model model = load(tiny_model());
  const SchedulerOptions with = options(3);
  Scheduler scheduler(model, with);
  Asked first(prompt(60, 30, 1)), second(prompt(60, 20, 2));
  submit(scheduler, {&first});
  expect_alone(model, with.session, first);
  submit(scheduler, {&second});
  expect_alone(model, with.session, second);
  EXPECT_EQ(second.answer->report.cached_tokens, 60u);
  for (Asked* each : {&first, &second}) {
    std::vector<Token> longer = each->request.prompt;
    longer.insert(longer.end(), each->answer->tokens.begin(), each->answer->tokens.end());
    longer.push_back(5);
    Asked next(longer);
    submit(scheduler, {&next});
    expect_alone(model, with.session, next);
    EXPECT_EQ(next.answer->report.cached_tokens, longer.size() - 2);
  }
  // Where there is no other place, what is lost least is.
  Asked again(first.request.prompt);
  submit(scheduler, {&again});
  expect_alone(model, with.session, again);
  EXPECT_EQ(again.answer->report.cached_tokens, 89u);
}

TEST_F(SchedulerShares, WhoWaitedGoesOnWhenTheFirstIsCancelled) {
  const Model model = load(tiny_model());
  std::shared_ptr<Scheduler::Job> job;
  std::atomic<bool> submitted = false;
  after_step = [&](size_t n) {
    while (!submitted) std::this_thread::yield();
    if (n == 5) job->cancel();
  };
  const SchedulerOptions with = options(2);
  Asked first(prompt(200, 0, 0), 4), second(prompt(200, 0, 0), 4), third(prompt(0, 30, 5), 1);
  Scheduler scheduler(model, with);
  const auto jobs = submit(scheduler, {&first, &second, &third});  // which takes the first's place
  job = jobs[0];
  submitted = true;
  first.future.wait();
  EXPECT_EQ(first.answer->report.end, AnswerEnd::cancelled);
  expect_alone(model, with.session, second);
  expect_alone(model, with.session, third);
  EXPECT_EQ(second.answer->report.cached_tokens, 5u * 16);
  EXPECT_EQ(rows_of(scheduler), 200u + 3 + 30);
}

TEST_F(SchedulerShares, NobodyWaitsForOneThatIsHeldUp) {
  const Model model = load(tiny_model());
  std::atomic<bool> open = true;
  after_step = [&](size_t n) {
    if (n == 5) open = false;
  };
  const SchedulerOptions with = options(2);
  Asked first(prompt(200, 0, 0), 4), second(prompt(200, 0, 0), 4);
  first.request.can_take = [&] { return open.load(); };
  Scheduler scheduler(model, with);
  const auto jobs = submit(scheduler, {&first, &second});
  expect_alone(model, with.session, second);
  EXPECT_EQ(rows_of(scheduler, 1), 200u + 3);
  open = true;
  jobs[0]->nudge();
  expect_alone(model, with.session, first);
  EXPECT_EQ(first.answer->report.cached_tokens, 199u - 80);  // which the second has read meanwhile
  EXPECT_EQ(rows_of(scheduler), 200u + 3 + 1 + 3);
}

TEST_F(SchedulerShares, AStepThatFailsLeavesNobodyWaiting) {
  const Model model = load(tiny_model());
  after_step = [](size_t n) {
    if (n == 3) throw Error("step", "fails");
  };
  const SchedulerOptions with = options(2);
  Scheduler scheduler(model, with);
  Asked first(prompt(200, 0, 0), 4), second(prompt(200, 0, 0), 4), third(prompt(200, 0, 0), 4);
  submit(scheduler, {&first, &second, &third});
  for (Asked* each : {&first, &second}) {
    each->future.wait();
    EXPECT_EQ(each->answer->report.end, AnswerEnd::failed);
  }
  expect_alone(model, with.session, third);
  EXPECT_EQ(third.answer->report.cached_tokens, 0u);
}

// The states of delta nets are handed over where they are, which is why the first stops there.
TEST_F(SchedulerShares, HybridsShareWhatArrivesTogether) {
  const Model model = load(hybrid_model());
  const SchedulerOptions with = options(4);
  Scheduler scheduler(model, with);
  Asked a(prompt(53, 40, 1), 3), b(prompt(53, 40, 4), 3), c(prompt(53, 40, 1), 3),
      d(prompt(22, 40, 5), 3);
  submit(scheduler, {&a, &b, &c, &d});
  for (Asked* each : {&a, &b, &c, &d}) expect_alone(model, with.session, *each);
  EXPECT_EQ(a.answer->report.cached_tokens, 0u);
  EXPECT_EQ(b.answer->report.cached_tokens, 53u);
  EXPECT_EQ(c.answer->report.cached_tokens, 93u - 17);  // and takes a snapshot behind the next one
  EXPECT_EQ(d.answer->report.cached_tokens, 22u);
  EXPECT_EQ(rows_of(scheduler), 93u + 40 + 17 + 40 + 4 * 2);
  // Later it is the snapshot of its own that a conversation goes back to; others read anew.
  Asked again(prompt(53, 40, 1), 3), other(prompt(53, 20, 7), 3);
  submit(scheduler, {&again});
  expect_alone(model, with.session, again);
  EXPECT_EQ(again.answer->report.cached_tokens, 93u - 16);
  submit(scheduler, {&other});
  expect_alone(model, with.session, other);
  EXPECT_EQ(other.answer->report.cached_tokens, 0u);
}

TEST_F(SchedulerShares, WindowsSlideOverWhatIsShared) {
  const Model model = load(tiny_model());
  SchedulerOptions with = options(3);
  with.session.context = 0;
  with.session.window = 40;
  with.session.keep = 2;
  Scheduler scheduler(model, with);
  std::vector<std::unique_ptr<Asked>> asked;
  for (const size_t n : {30, 100, 300, 300, 30, 100}) {
    const auto branch = static_cast<Token>(asked.size());
    asked.push_back(std::make_unique<Asked>(prompt(n, 7, branch), 30));
    submit(scheduler, {asked.back().get()});
  }
  for (const auto& each : asked) expect_alone(model, with.session, *each);
}

}  // namespace
}  // namespace vga::test
