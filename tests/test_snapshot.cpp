// Models with delta nets cannot go back but to snapshots: sessions, chats and the scheduler.

#include <future>

#include <gtest/gtest.h>

#include "gguf_image.h"
#include "logits.h"
#include "vga/conversation.h"
#include "vga/scheduler.h"

namespace vga::test {
namespace {

std::vector<Token> tokens_from(size_t first, size_t n) {
  std::vector<Token> tokens;
  for (size_t i = first; i < first + n; ++i) {
    tokens.push_back(static_cast<Token>((i * i * 7 + i * 3 + 11) % 32));
  }
  return tokens;
}

class SnapshotTest : public testing::Test {
 protected:
  TemporaryDirectory directory_;
  Model model_ = Model::load(directory_.write("m.gguf", hybrid_model().bytes()));
  SessionOptions options_ = {
      .context = 300, .n_sequences = 2, .n_threads = 2, .max_batch = 16, .cache_type = DType::f32};
};

TEST_F(SnapshotTest, GoesBackToTheSameBits) {
  Session once(model_, options_);
  Session session(model_, options_);
  for (const uint32_t sequence : {0u, 1u}) {
    const auto begin = tokens_from(sequence, 37);
    once.prefill(begin, sequence);
    session.prefill(begin, sequence);
    const Snapshot snapshot = session.snapshot(sequence);
    EXPECT_EQ(snapshot.length(), 37);
    for (size_t again = 0; again < 3; ++again) {
      session.prefill(tokens_from(50 * again, 29), sequence);
      session.restore(snapshot, sequence);
      EXPECT_EQ(session.length(sequence), 37);
    }
    const auto end = tokens_from(9, 21);
    session.prefill(end, sequence);
    once.prefill(end, sequence);
    EXPECT_TRUE(same_logits(session.logits(), once.logits(), 32, DType::f32));
  }
}

TEST_F(SnapshotTest, TheBeginningNeedsNone) {
  Session session(model_, options_);
  const auto tokens = tokens_from(3, 40);
  session.prefill(tokens);
  const std::vector<float> first(session.logits().begin(), session.logits().end());
  session.truncate(40);
  session.truncate(0);
  session.prefill(tokens);
  EXPECT_TRUE(same_logits(session.logits(), first, 32, DType::f32));
}

TEST_F(SnapshotTest, ElsewhereASessionSaysThatItCannotGoBack) {
  Session session(model_, options_);
  session.prefill(tokens_from(0, 20));
  EXPECT_FALSE(session.rewinds());
  try {
    session.truncate(7);
    FAIL() << "was accepted";
  } catch (const CannotRewind& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("from position 20 to 7"), std::string::npos) << what;
  }
  EXPECT_EQ(session.length(), 20);
  EXPECT_THROW(session.restore(Snapshot()), Error);
}

TEST_F(SnapshotTest, EndsWhenItsSequenceGoesBackBehindIt) {
  Session session(model_, options_);
  session.prefill(tokens_from(0, 10));
  const Snapshot early = session.snapshot();
  session.prefill(tokens_from(10, 10));
  const Snapshot late = session.snapshot();
  const std::vector<Snapshot> copies = {late};
  session.restore(early);
  EXPECT_FALSE(late);
  EXPECT_FALSE(copies[0]);
  EXPECT_TRUE(early);
  session.prefill(tokens_from(30, 15));
  EXPECT_THROW(session.restore(late), Error);
  EXPECT_THROW(session.restore(early, 1), Error);
  Session other(model_, options_);
  other.prefill(tokens_from(0, 20));
  EXPECT_THROW(other.restore(early), Error);
  EXPECT_EQ(session.length(), 25);
  session.truncate(0);
  EXPECT_FALSE(early);
}

TEST_F(SnapshotTest, GoBackTakesTheLatestThatWillDo) {
  Session session(model_, options_);
  std::vector<Snapshot> snapshots(1);
  for (size_t i = 0; i < 4; ++i) {
    session.prefill(tokens_from(10 * i, 10));
    snapshots.push_back(session.snapshot());
  }
  EXPECT_EQ(session.go_back(40, snapshots), 40);
  EXPECT_EQ(session.go_back(35, snapshots), 30);
  EXPECT_EQ(session.length(), 30);
  EXPECT_EQ(session.go_back(19, snapshots), 10);
  EXPECT_EQ(session.go_back(9, snapshots), 0);
  EXPECT_EQ(session.length(), 0);
}

// What is announced: keys and values of one layer, and the states of three.
/// Fails in the middle of a batch.
struct FailingObserver : Observer {
  bool wants(Site site) const override { return site == Site::block; }
  bool see(Site, size_t layer, std::span<float>) override {
    if (layer == 2) throw Error("observer", "fails");
    return false;
  }
};

TEST_F(SnapshotTest, IsTheOnlyWayAfterABatchThatFailed) {
  Session session(model_, options_);
  Session expected(model_, options_);
  const auto tokens = tokens_from(3, 20);
  session.prefill(tokens);
  expected.prefill(tokens);
  const Snapshot snapshot = session.snapshot();
  FailingObserver observer;
  session.observe(&observer);
  EXPECT_THROW(session.prefill(tokens), Error);
  session.observe(nullptr);
  EXPECT_EQ(session.length(), 20);
  EXPECT_THROW(session.prefill(tokens), CannotRewind);
  EXPECT_THROW(session.snapshot(), CannotRewind);
  EXPECT_THROW(session.truncate(20), CannotRewind);
  EXPECT_EQ(session.go_back(24, std::span(&snapshot, 1)), 20);  // not to what is torn
  session.prefill(tokens);
  expected.prefill(tokens);
  EXPECT_TRUE(same_logits(session.logits(), expected.logits(), 32, DType::f32));
  session.observe(&observer);
  EXPECT_THROW(session.prefill(tokens), Error);
  session.observe(nullptr);
  session.truncate(0);
  session.prefill(tokens);
}

TEST_F(SnapshotTest, StatesAreCounted) {
  const uint64_t state = 3 * (3 * (2 * 16 + 32) + 32 * 8) * sizeof(float);
  const uint64_t page = 2 * 2 * page_positions * 16 * sizeof(float);
  Session session(model_, options_);
  EXPECT_EQ(session.snapshot_bytes(), state);
  EXPECT_EQ(session.cache_bytes(), 2 * (state + 2 * page));
  EXPECT_EQ(cache_bytes(model_.config(), options_), session.cache_bytes());
}

// The prompt of a chat begins with the last one, less what asked for an answer, and its answer.
TEST_F(SnapshotTest, TheSchedulerGoesOnShortlyBeforeTheLastAnswer) {
  SchedulerOptions options;
  options.session = options_;
  options.session.n_sequences = 1;
  Scheduler scheduler(model_, options);
  const Session same(model_, options.session);
  EXPECT_EQ(scheduler.cache_bytes(), same.cache_bytes() + same.snapshot_bytes());
  const auto answer_to = [&](const std::vector<Token>& prompt) {
    std::pair<std::vector<Token>, AnswerReport> answer;
    std::promise<void> done;
    AnswerRequest request{.prompt = prompt,
                          .sampler = {.temperature = 0},
                          .max_tokens = 6,
                          .ignore_end = true,
                          .on_token =
                              [&](const AnswerToken& token) {
                                answer.first.push_back(token.token);
                                return true;
                              },
                          .on_end =
                              [&](const AnswerReport& report) {
                                answer.second = report;
                                done.set_value();
                              }};
    std::vector<AnswerRequest> requests;
    requests.push_back(std::move(request));
    EXPECT_EQ(scheduler.submit(std::move(requests)).size(), 1u);
    done.get_future().wait();
    return answer;
  };
  const auto alone = [&](const std::vector<Token>& prompt) {
    Session session(model_, options_);
    Sampler sampler({.temperature = 0});
    session.prefill(prompt);
    std::vector<Token> tokens;
    while (tokens.size() < 6) {
      tokens.push_back(session.sample(sampler));
      session.append(tokens.back());
    }
    return tokens;
  };
  std::vector<Token> prompt = tokens_from(0, 70);
  auto answer = answer_to(prompt);
  EXPECT_EQ(answer.first, alone(prompt));
  EXPECT_EQ(answer.second.cached_tokens, 0u);
  // A thought that the template leaves out: the last five tokens of the prompt are other ones now.
  prompt.resize(65);
  for (const Token token : tokens_from(40, 30)) prompt.push_back(token);
  answer = answer_to(prompt);
  EXPECT_EQ(answer.first, alone(prompt));
  EXPECT_EQ(answer.second.cached_tokens, 70u - 16);
  // An answer that is not read again: nothing is known before the snapshot.
  prompt.resize(30);
  answer = answer_to(prompt);
  EXPECT_EQ(answer.first, alone(prompt));
  EXPECT_EQ(answer.second.cached_tokens, 0u);
}

TEST_F(SnapshotTest, AChatAnswersAsOneThatReadsEverythingAnew) {
  const Model model = Model::load(directory_.write("talking.gguf", talking_hybrid_model().bytes()));
  for (const size_t window : {0u, 120u}) {
    SessionOptions options = options_;
    options.n_sequences = 1;
    if (window > 0) {
      options.context = 0;
      options.window = window;
    }
    const auto chat = [&] {
      return Conversation(model, options, {.temperature = 0}, ChatTemplate::named("chatml"));
    };
    const auto ask = [](Conversation& with, const std::string& message, size_t stop = 1000) {
      size_t n = 0;
      return with.ask(
          message, 12, [](std::string_view) {}, [&] { return ++n < stop; });
    };
    Conversation once = chat();
    Conversation stopped = chat();  // before each turn another one is taken back
    for (const char* message : {"who are you", "tell me more", "and then", "why"}) {
      EXPECT_TRUE(ask(stopped, std::string(40, 'x'), 2).taken_back);
      const std::string expected = ask(once, message).text;
      if (once.forgotten_turns() > 0) break;  // a state remembers them in one way or the other
      EXPECT_EQ(ask(stopped, message).text, expected) << window;
      Conversation fresh = chat();
      const std::vector<Turn> before(once.turns().begin(), once.turns().end() - 1);
      ASSERT_TRUE(fresh.replay("", before, [] { return true; }));
      EXPECT_EQ(ask(fresh, message).text, expected) << window;
    }
  }
}

}  // namespace
}  // namespace vga::test
