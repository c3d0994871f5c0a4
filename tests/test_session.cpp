/// What a Session promises: results depend on the tokens alone, not on batches, threads, other
/// sequences or other sessions. All comparisons are exact.

#include <algorithm>
#include <numeric>
#include <thread>

#include <gtest/gtest.h>

#include "gguf_image.h"
#include "logits.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

using Gate = AttentionGate;

class SessionTest : public testing::TestWithParam<Gate> {
 protected:
  TemporaryDirectory directory_;
  Model model_ =
      Model::load(directory_.write("tiny.gguf", tiny_model(tiny_vocab, GetParam()).bytes()));

  /// Logits of every token, fed in chunks of `chunk`.
  std::vector<float> all_logits(const SessionOptions& options, std::span<const Token> tokens,
                                size_t chunk) {
    return logits_in_chunks(model_, options, tokens, chunk);
  }
};

TEST_P(SessionTest, DecodingEqualsChunksEqualsWhole) {
  const auto tokens = some_tokens(61);
  for (const DType type : {DType::f32, DType::f16}) {
    const SessionOptions options{.n_threads = 1, .cache_type = type};
    const auto whole = all_logits(options, tokens, tokens.size());
    for (const size_t chunk : {1, 2, 3, 7, 16, 60}) {
      EXPECT_TRUE(same_logits(all_logits(options, tokens, chunk), whole, tiny_vocab, type))
          << "chunks of " << chunk;
    }
  }
}

TEST_P(SessionTest, ThreadsDoNotMatter) {
  const auto tokens = some_tokens(50);
  const auto one = all_logits({.n_threads = 1}, tokens, 50);
  EXPECT_EQ(all_logits({.n_threads = 2}, tokens, 50), one);
  EXPECT_EQ(all_logits({.n_threads = 7}, tokens, 50), one);
  EXPECT_TRUE(same_logits(all_logits({.n_threads = 7}, tokens, 1), one, tiny_vocab));
}

TEST_P(SessionTest, PrefillEqualsDecode) {
  const auto tokens = some_tokens(40);
  const auto all = all_logits({.n_threads = 1}, tokens, 40);
  Session session(model_, {.n_threads = 2, .max_batch = 9});
  const auto last = prefill(session, tokens);
  EXPECT_TRUE(same_logits(last, std::span(all).last(tiny_vocab), tiny_vocab));
  EXPECT_EQ(session.length(), 40);
}

TEST_P(SessionTest, InterleavedSessionsEqualSeparateOnes) {
  const auto first = some_tokens(30, 1);
  const auto second = some_tokens(30, 2);
  const auto alone = [&](std::span<const Token> tokens) {
    Session session(model_, {.n_threads = 1});
    std::vector<float> all;
    for (const Token token : tokens) {
      const auto logits = session.decode(token);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  };
  const auto first_alone = alone(first);
  const auto second_alone = alone(second);
  Session a(model_, {.n_threads = 1});
  Session b(model_, {.n_threads = 2});
  for (size_t i = 0; i < 30; ++i) {
    const auto from_a = a.decode(first[i]);
    EXPECT_TRUE(
        std::ranges::equal(from_a, std::span(first_alone).subspan(i * tiny_vocab, tiny_vocab)));
    const auto from_b = b.decode(second[i]);
    EXPECT_TRUE(
        std::ranges::equal(from_b, std::span(second_alone).subspan(i * tiny_vocab, tiny_vocab)));
  }
}

TEST_P(SessionTest, SequencesOfOneBatchAreIndependent) {
  const auto first = some_tokens(20, 1);
  const auto second = some_tokens(20, 2);
  const auto first_alone = all_logits({.n_threads = 1}, first, 20);
  const auto second_alone = all_logits({.n_threads = 1}, second, 20);
  Session session(model_, {.n_sequences = 2, .n_threads = 2});
  for (size_t i = 0; i < 20; ++i) {
    const std::array rows = {Row{second[i], static_cast<int64_t>(i), 1, true},
                             Row{first[i], static_cast<int64_t>(i), 0, true}};
    const auto logits = session.decode(rows);
    EXPECT_TRUE(same_logits(logits.first(tiny_vocab),
                            std::span(second_alone).subspan(i * tiny_vocab, tiny_vocab),
                            tiny_vocab));
    EXPECT_TRUE(same_logits(logits.last(tiny_vocab),
                            std::span(first_alone).subspan(i * tiny_vocab, tiny_vocab),
                            tiny_vocab));
  }
}

TEST_P(SessionTest, SessionsOfOneModelRunInParallel) {
  const auto tokens = some_tokens(50);
  const auto expected = all_logits({.n_threads = 1}, tokens, 5);
  std::vector<std::vector<float>> results(3);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < results.size(); ++i) {
    threads.emplace_back([&, i] { results[i] = all_logits({.n_threads = 2}, tokens, 1 + i); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_TRUE(same_logits(result, expected, tiny_vocab));
}

// Over several pages of the cache, with few rows (split over the threads) and with many.
TEST_P(SessionTest, LongContextsDoNotDependOnChunksAndThreads) {
  const auto tokens = some_tokens(700);
  const auto expected = all_logits({.context = 700, .n_threads = 1}, tokens, 1);
  for (const size_t n_threads : {1, 2, 7}) {
    if (n_threads > 1 && on_device()) break;  // which has its own
    for (const size_t chunk : {1, 2, 100, 256}) {
      EXPECT_TRUE(same_logits(all_logits({.context = 700, .n_threads = n_threads}, tokens, chunk),
                              expected, tiny_vocab))
          << n_threads << " threads, chunks of " << chunk;
    }
  }
}

TEST_P(SessionTest, LikeliestAreThoseOfTheLogits) {
  const auto tokens = some_tokens(20);
  Session session(model_, {.n_threads = 1});
  Sampler greedy({.temperature = 0});
  Sampler penalized({.temperature = 0, .repeat_penalty = 2});
  for (size_t i = 0; i < tokens.size(); i += 2) {
    const auto position = static_cast<int64_t>(i);
    session.append(
        std::array{Row{tokens[i], position, 0, true}, Row{tokens[i + 1], position + 1, 0, true}});
    for (const size_t k : {size_t{1}, size_t{5}, tiny_vocab}) {
      const auto found = session.likeliest(k);
      ASSERT_EQ(found.size(), 2 * k);
      const auto logits = session.logits();
      std::vector<Candidate> expected(k);
      for (size_t row = 0; row < 2; ++row) {
        find_likeliest(logits.subspan(row * tiny_vocab, tiny_vocab), expected);
        for (size_t j = 0; j < k; ++j) {
          EXPECT_EQ(found[row * k + j].token, expected[j].token);
          EXPECT_EQ(found[row * k + j].logit, expected[j].logit);
        }
      }
    }
    const auto last = session.logits().last(tiny_vocab);
    EXPECT_EQ(session.sample(greedy), greedy.sample(last));
    EXPECT_EQ(session.sample(penalized), penalized.sample(last));
    penalized.accept(tokens[i]);
  }
}

TEST_P(SessionTest, TruncateForgets) {
  const auto tokens = some_tokens(20);
  Session session(model_, {.n_threads = 1});
  session.prefill(tokens);
  session.truncate(5);
  const auto expected = all_logits({.n_threads = 1}, tokens, 20);
  for (size_t i = 5; i < 20; ++i) {
    EXPECT_TRUE(same_logits(session.decode(tokens[i]),
                            std::span(expected).subspan(i * tiny_vocab, tiny_vocab), tiny_vocab));
  }
}

INSTANTIATE_TEST_SUITE_P(Gates, SessionTest,
                         testing::Values(Gate{}, Gate{Gate::Source::value, Gate::Placement::output},
                                         Gate{Gate::Source::value, Gate::Placement::value},
                                         Gate{Gate::Source::input, Gate::Placement::output,
                                              Gate::Granularity::element, true}),
                         [](const auto& row) { return testing::PrintToString(row.param); });

class SessionErrors : public testing::Test {
 protected:
  TemporaryDirectory directory_;
  Model model_ = Model::load(directory_.write("tiny.gguf", tiny_model().bytes()));
};

TEST_F(SessionErrors, ContextFullLeavesTheSessionIntact) {
  Session session(model_, {.context = 4, .n_threads = 1});
  const auto tokens = some_tokens(4);
  session.prefill(tokens);
  EXPECT_THROW(session.decode(1), ContextFull);
  EXPECT_EQ(session.length(), 4);
  EXPECT_THROW(session.prefill(tokens), ContextFull);
  session.truncate(3);
  EXPECT_NO_THROW(session.decode(1));
}

TEST_F(SessionErrors, NamesWhatIsOutOfRange) {
  Session session(model_, {.n_threads = 1});
  EXPECT_THROW(session.decode(-1), Error);
  EXPECT_THROW(session.decode(static_cast<Token>(tiny_vocab)), Error);
  const std::array gap = {Row{1, 5}};
  EXPECT_THROW(session.decode(gap), Error);
  const std::array stranger = {Row{1, 0, 7}};
  EXPECT_THROW(session.decode(stranger), Error);
  EXPECT_THROW(session.decode(std::span<const Row>()), Error);
  EXPECT_THROW(session.prefill({}), Error);
  EXPECT_THROW(session.truncate(1), Error);
  EXPECT_THROW(session.likeliest(tiny_vocab + 1), Error);
  Sampler greedy({.temperature = 0});
  EXPECT_THROW(session.sample(greedy), Error);
  EXPECT_EQ(session.length(), 0);
  EXPECT_THROW(Session(model_, {.context = size_t{1} << 60}), Error);
  EXPECT_THROW(Session(model_, {.n_sequences = 0}), Error);
  EXPECT_THROW(Session(model_, {.n_threads = 1024}), Error);
  EXPECT_THROW(Session(model_, {.cache_type = DType::bf16}), Error);
  // The tiny model's heads are shorter than a block.
  EXPECT_THROW(Session(model_, {.cache_type = DType::q8_0}), Error);
}

TEST_F(SessionErrors, ACacheWhoseSizeNoNumberHolds) {
  Config config = model_.config();
  config.layers.resize(1024);
  config.n_kv_heads = 1024;
  SessionOptions options{.context = 208'083'200, .n_sequences = 660, .cache_type = DType::f32};
  EXPECT_GT(cache_bytes(config, options), uint64_t{1} << 63);
  options.n_sequences = 1321;  // a little more than 2 * 2^64 bytes
  EXPECT_THROW(cache_bytes(config, options), Error);
}

// Rounded up to whole spans, the largest number is 0.
TEST_F(SessionErrors, CachesOfAbsurdContextsHaveNoSize) {
  const Config& config = model_.config();
  for (const size_t n : {SIZE_MAX, SIZE_MAX - 254, size_t{1} << 63, (size_t{1} << 28) + 1}) {
    EXPECT_THROW(cache_bytes(config, {.context = n}), Error) << n;
    EXPECT_THROW(cache_bytes(config, {.window = n}), Error) << n;
    EXPECT_THROW(session_bytes(config, {.context = n}, 1), Error) << n;
  }
  EXPECT_THROW(cache_bytes(config, {.window = 64, .max_batch = SIZE_MAX}), Error);
  EXPECT_GT(cache_bytes(config, {.context = size_t{1} << 28}), size_t{1} << 35);
}

TEST_F(SessionErrors, PrefillStopsWhenAsked) {
  Session session(model_, {.n_threads = 1, .max_batch = 4});
  session.prefill(some_tokens(20), 0, [](size_t done) { return done < 8; });
  EXPECT_EQ(session.length(), 8);
  EXPECT_EQ(session.logits().size(), tiny_vocab);
}

}  // namespace
}  // namespace vga::test
