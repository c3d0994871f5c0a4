/// Windows: what a token sees, that what comes out equals StreamingLLM's definition however far the
/// text goes, and what cannot be taken back.

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include <gtest/gtest.h>

#include "compute/kv_window.h"
#include "compute/rope.h"
#include "gguf_image.h"
#include "logits.h"
#include "naive_model.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

using Gate = AttentionGate;

/// The definition: of all positions up to `position` the first `keep` and the last window - keep.
std::vector<size_t> seen_by(size_t position, size_t window, size_t keep) {
  std::vector<size_t> seen;
  for (size_t p = 0; p <= position; ++p) {
    if (p < keep || position - p < window - keep) seen.push_back(p);
  }
  return seen;
}

TEST(KvWindow, SeesWhatTheDefinitionSays) {
  for (const int64_t size : {1, 2, 5, 8, 37}) {
    for (int64_t keep = 0; keep < size; ++keep) {
      const KvWindow window{size, keep};
      for (int64_t position = 0; position < 5 * size; ++position) {
        const auto seen = seen_by(static_cast<size_t>(position), static_cast<size_t>(size),
                                  static_cast<size_t>(keep));
        const auto view = window.view(position);
        std::vector<size_t> found;
        for (int64_t p = 0; p <= position; ++p) {
          if (p < keep || p >= view.first) found.push_back(static_cast<size_t>(p));
        }
        ASSERT_EQ(found, seen) << size << ' ' << keep << ' ' << position;
        ASSERT_EQ(view.index, static_cast<int64_t>(seen.size()) - 1);
        ASSERT_EQ(view.index, std::min(position, size - 1));
      }
    }
  }
}

TEST(KvWindow, PositionsMayBeHuge) {
  const KvWindow window{1024, 4};
  const int64_t position = int64_t{1} << 62;
  EXPECT_EQ(window.view(position).first, position - 1019);
  EXPECT_EQ(window.view(position).index, 1023);
}

TEST(KvWindow, WhatWasForgottenClosesTheGap) {
  const KvWindow window{16, 3};
  EXPECT_EQ(window.view(100, 95).first, 95);
  EXPECT_EQ(window.view(100, 95).index, 8);  // three kept ones, then 95 to 100
  EXPECT_EQ(window.view(100, 50).first, 88);
  EXPECT_EQ(window.view(100, 50).index, 15);
}

/// A ring in which everything is really overwritten.
TEST(KvWindow, HoldsTellsWhatARingStillHas) {
  for (const int64_t keep : {0, 1, 4}) {
    const KvWindow window{9, keep};
    const int64_t n_ring = window.ring_positions(3);
    for (int64_t written = 0; written < 40; ++written) {
      std::vector<int64_t> ring(static_cast<size_t>(n_ring), -1);
      for (int64_t p = keep; p < written; ++p) ring[static_cast<size_t>(p % n_ring)] = p;
      for (int64_t position = 0; position <= written; ++position) {
        bool intact = true;
        for (int64_t p = window.view(position).first; p < position; ++p) {
          intact = intact && ring[static_cast<size_t>(p % n_ring)] == p;
        }
        ASSERT_EQ(window.holds(position, 0, n_ring, written), intact)
            << keep << ' ' << written << ' ' << position;
        // As promised in vga.h.
        ASSERT_TRUE(intact || position + 3 < written);
      }
    }
  }
}

Config rope_config() {
  Config config;
  config.rope_dim = 64;
  config.rope_tables = {{.theta = 10000}};
  return config;
}

TEST(Rope, IsExactAfterABillionTokens) {
  const Rope rope(rope_config(), 0);
  for (const int64_t position : {int64_t{0}, int64_t{1}, int64_t{1000}, int64_t{1'000'000'007}}) {
    std::vector<float> angles;
    rope.append(position, angles);
    ASSERT_EQ(angles.size(), 64u);
    for (size_t i = 0; i < 32; ++i) {
      const long double frequency = std::pow(10000.0L, -2.0L * static_cast<long double>(i) / 64);
      const long double angle = std::fmod(static_cast<long double>(position) * frequency,
                                          2 * std::numbers::pi_v<long double>);
      EXPECT_NEAR(angles[2 * i], static_cast<double>(std::cos(angle)), 4e-7)
          << position << ' ' << i;
      EXPECT_NEAR(angles[2 * i + 1], static_cast<double>(std::sin(angle)), 4e-7);
    }
  }
}

// cos(a - b) from the angles of two positions: distance is all that matters, however far they are.
TEST(Rope, DependsOnDistanceAlone) {
  const Rope rope(rope_config(), 0);
  for (const int64_t distance : {1, 7, 1000}) {
    std::vector<float> expected;
    rope.append(distance, expected);
    for (const int64_t position : {int64_t{1} << 20, int64_t{1} << 40, int64_t{1} << 62}) {
      std::vector<float> a;
      std::vector<float> b;
      rope.append(position + distance, a);
      rope.append(position, b);
      for (size_t i = 0; i < a.size(); i += 2) {
        EXPECT_NEAR(a[i] * b[i] + a[i + 1] * b[i + 1], expected[i], 3e-7) << position;
      }
    }
  }
}

struct WindowCase {
  Gate gate;
  size_t window;
  size_t keep;
};

void PrintTo(const WindowCase& c, std::ostream* out) {
  *out << name(c.gate.source);
  if (c.gate) *out << '_' << name(c.gate.placement) << '_' << name(c.gate.granularity);
  if (c.gate.bias) *out << "_bias";
  *out << "_w" << c.window << "_k" << c.keep;
}

std::vector<WindowCase> all_cases() {
  std::vector<Gate> gates = {{}};
  for (const auto source : {Gate::Source::input, Gate::Source::value}) {
    for (const auto placement : {Gate::Placement::output, Gate::Placement::value}) {
      for (const auto granularity : {Gate::Granularity::head, Gate::Granularity::element}) {
        const bool bias = gates.size() % 2 == 1;
        gates.push_back({source, placement, granularity, bias});
      }
    }
  }
  std::vector<WindowCase> cases;
  for (const Gate& gate : gates) {
    for (const size_t keep : {0, 1, 4}) cases.push_back({gate, 37, keep});
  }
  // Windows over several pages of the cache, kept tokens that fill more than one.
  cases.push_back({gates[5], 301, 4});
  cases.push_back({gates[0], 333, 270});
  return cases;
}

class WindowTest : public testing::TestWithParam<WindowCase> {
 protected:
  static constexpr size_t head_dim = 32;  // q8_0 wants blocks of 32

  // A device's driver on the CPU takes its time; three windows lead around every ring.
  size_t n_tokens() const { return (on_device() ? 3 : 10) * GetParam().window + 3; }

  std::vector<float> run(const SessionOptions& options, std::span<const Token> tokens,
                         size_t chunk) {
    return logits_in_chunks(model_, options, tokens, chunk);
  }

  SessionOptions options(DType cache_type) const {
    return {.window = GetParam().window,
            .keep = GetParam().keep,
            .n_threads = 1,
            .max_batch = 50,
            .cache_type = cache_type};
  }

  /// Relative error of each token's logits.
  std::vector<double> errors(std::span<const float> logits) {
    if (expected_.empty()) {
      NaiveModel naive(image_, model_.config());
      const auto tokens = some_tokens(n_tokens());
      for (size_t i = 0; i < tokens.size(); ++i) {
        expected_.push_back(naive.add(tokens[i], seen_by(i, GetParam().window, GetParam().keep)));
      }
    }
    std::vector<double> errors;
    for (size_t i = 0; i < expected_.size(); ++i) {
      double error = 0;
      double size = 0;
      for (size_t j = 0; j < tiny_vocab; ++j) {
        error += std::pow(logits[i * tiny_vocab + j] - expected_[i][j], 2);
        size += std::pow(expected_[i][j], 2);
      }
      errors.push_back(std::sqrt(error / size));
    }
    return errors;
  }

  GgufImage image_ = tiny_model(tiny_vocab, GetParam().gate, head_dim);
  TemporaryDirectory directory_;
  Model model_ = Model::load(directory_.write("tiny.gguf", image_.bytes()));
  std::vector<std::vector<double>> expected_;
};

TEST_P(WindowTest, EqualsTheDefinitionForManyWindows) {
  const auto found = errors(run(options(DType::f32), some_tokens(n_tokens()), 13));
  EXPECT_LT(std::ranges::max(found), 1e-4);
}

TEST_P(WindowTest, RoundedCachesStayAsGoodAsTheyBegan) {
  for (const DType type : {DType::f16, DType::q8_0}) {
    const auto found = errors(run(options(type), some_tokens(n_tokens()), 50));
    const auto n = static_cast<std::ptrdiff_t>(GetParam().window);
    const auto mean = [n](auto begin) {
      return std::accumulate(begin, begin + n, 0.0) / static_cast<double>(n);
    };
    const double began = mean(found.begin());  // the window does not slide yet: ordinary attention
    const double ended = mean(found.end() - n);
    EXPECT_LT(began, 8 * rounding_step(type)) << name(type);
    EXPECT_LT(ended, 1.5 * began) << name(type);
  }
}

TEST_P(WindowTest, ChunksAndThreadsDoNotMatter) {
  const auto tokens = some_tokens(n_tokens());
  for (const DType type : {DType::f16, DType::q8_0}) {
    if (on_device() && type == DType::q8_0) break;  // there RoundedCaches asks about it
    SessionOptions o = options(type);
    const auto expected = run(o, tokens, 1);
    EXPECT_TRUE(same_logits(run(o, tokens, 13), expected, tiny_vocab, type)) << name(type);
    o.n_threads = 3;
    EXPECT_TRUE(same_logits(run(o, tokens, 50), expected, tiny_vocab, type)) << name(type);
    o.n_threads = 2;
    o.max_batch = 300;  // another ring
    EXPECT_TRUE(same_logits(run(o, tokens, 300), expected, tiny_vocab, type)) << name(type);
  }
}

TEST_P(WindowTest, PrefillTakesTextsLongerThanTheWindow) {
  const auto tokens = some_tokens(n_tokens());
  const auto all = run(options(DType::f16), tokens, 50);
  Session session(model_, options(DType::f16));
  EXPECT_TRUE(same_logits(prefill(session, tokens), std::span(all).last(tiny_vocab), tiny_vocab));
  EXPECT_EQ(session.length(), static_cast<int64_t>(tokens.size()));
  EXPECT_GT(session.room(), int64_t{1} << 60);
}

INSTANTIATE_TEST_SUITE_P(Gates, WindowTest, testing::ValuesIn(all_cases()),
                         [](const auto& row) { return testing::PrintToString(row.param); });

class WindowSession : public testing::Test {
 protected:
  GgufImage image_ = tiny_model(tiny_vocab);
  TemporaryDirectory directory_;
  Model model_ = Model::load(directory_.write("tiny.gguf", image_.bytes()));
  std::vector<Token> tokens_ = some_tokens(1000);

  Session session(size_t window, size_t keep, size_t max_batch = 16) {
    return Session(model_, {.window = window,
                            .keep = keep,
                            .n_threads = 1,
                            .max_batch = max_batch,
                            .cache_type = DType::f32});
  }
};

TEST_F(WindowSession, WhatIsTakenBackCanBeSaidDifferently) {
  for (const size_t keep : {0, 3}) {
    Session once = session(40, keep);
    Session twice = session(40, keep);
    once.prefill(std::span(tokens_).first(900));
    twice.prefill(std::span(tokens_).first(900));
    twice.prefill(std::span(tokens_).first(16));
    twice.truncate(900);
    EXPECT_TRUE(same_logits(once.decode(5), twice.decode(5), tiny_vocab, DType::f32));
    EXPECT_EQ(twice.length(), 901);
  }
}

TEST_F(WindowSession, WhatWasOverwrittenCannotBeTakenBack) {
  Session s = session(200, 4);  // a ring of 256: 60 more than the window's 196
  s.prefill(tokens_);
  const auto before = s.length();
  try {
    s.truncate(900);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("at least 939"), std::string::npos) << error.what();
  }
  EXPECT_EQ(s.length(), before);
  EXPECT_THROW(s.truncate(938), Error);
  EXPECT_THROW(s.truncate(5), Error);
  EXPECT_THROW(s.truncate(1001), Error);
  EXPECT_THROW(s.truncate(-1), Error);
  s.truncate(939);
  // The cache does not become whole again by going on from there.
  s.prefill(std::span(tokens_).first(30));
  EXPECT_THROW(s.truncate(930), Error);

  // Kept tokens are always there, and nothing else is needed next to them.
  s.truncate(3);
  Session fresh = session(200, 4);
  fresh.prefill(std::span(tokens_).first(3));
  const auto rest = std::span(tokens_).subspan(50, 400);
  EXPECT_TRUE(same_logits(prefill(s, rest), prefill(fresh, rest), tiny_vocab, DType::f32));
  s.truncate(403 - 16);
  s.truncate(0);
  Session empty = session(200, 4);
  EXPECT_TRUE(same_logits(prefill(s, rest), prefill(empty, rest), tiny_vocab, DType::f32));
}

/// Fails when a batch is in the cache of every layer.
struct FailingAtTheEnd : Observer {
  bool wants(Site site) const override { return site == Site::block; }
  bool see(Site, size_t layer, std::span<float>) override {
    if (layer + 1 == n_layers) throw Error("observer", "fails");
    return false;
  }
  size_t n_layers = 0;
};

TEST_F(WindowSession, WhatAFailedBatchOverwroteCannotBeTakenBack) {
  Session s = session(64, 0, 64);
  s.prefill(std::span(tokens_).first(256));
  FailingAtTheEnd observer;
  observer.n_layers = model_.config().n_layers();
  s.observe(&observer);
  EXPECT_THROW(s.prefill(std::span(tokens_).first(64)), Error);
  s.observe(nullptr);
  EXPECT_EQ(s.length(), 256);
  EXPECT_THROW(s.truncate(64), Error);
  Session fresh = session(64, 0, 64);
  fresh.prefill(std::span(tokens_).first(256));
  EXPECT_TRUE(same_logits(s.decode(5), fresh.decode(5), tiny_vocab, DType::f32));
}

// Turns that a chat forgets: as if the rest had followed the kept tokens directly.
TEST_F(WindowSession, ForgettingClosesTheGap) {
  for (const size_t keep : {0, 5}) {
    Session s = session(64, keep);
    s.prefill(std::span(tokens_).first(500));
    s.forget(490);
    const auto found = prefill(s, std::span(tokens_).subspan(500, 20));

    NaiveModel naive(image_, model_.config());
    std::vector<double> expected;
    for (size_t i = 0; i < 520; ++i) {
      std::vector<size_t> seen = seen_by(i, 64, keep);
      if (i >= 500) std::erase_if(seen, [&](size_t p) { return p >= keep && p < 490; });
      expected = naive.add(tokens_[i], seen);
    }
    for (size_t j = 0; j < tiny_vocab; ++j) EXPECT_NEAR(found[j], expected[j], 1e-4);
  }
}

TEST_F(WindowSession, ForgettingIsNotUndone) {
  Session s = session(64, 2);
  s.prefill(std::span(tokens_).first(100));
  s.forget(90);
  s.forget(70);  // less than what is forgotten already
  Session other = session(64, 2);
  other.prefill(std::span(tokens_).first(100));
  other.forget(90);
  EXPECT_TRUE(same_logits(s.decode(1), other.decode(1), tiny_vocab, DType::f32));
  // Beyond the end there is nothing to forget; what is forgotten and taken back is just gone.
  EXPECT_THROW(s.forget(102), Error);
  EXPECT_THROW(s.forget(-1), Error);
  s.forget(101);
  s.truncate(95);
  s.decode(1);
}

TEST_F(WindowSession, SequencesSlideOnTheirOwn) {
  Session alone = session(20, 1);
  alone.prefill(tokens_);
  const auto alone_logits = alone.decode(7);
  Session s(model_, {.window = 20,
                     .keep = 1,
                     .n_sequences = 2,
                     .n_threads = 1,
                     .max_batch = 16,
                     .cache_type = DType::f32});
  s.prefill(tokens_, 1);
  s.prefill(std::span(tokens_).first(10), 0);
  const std::array rows = {Row{3, 10, 0}, Row{7, 1000, 1, true}};
  EXPECT_TRUE(same_logits(s.decode(rows), alone_logits, tiny_vocab, DType::f32));
}

TEST_F(WindowSession, NamesWhatIsOutOfRange) {
  EXPECT_THROW(session(8, 8), Error);
  EXPECT_THROW(session(8, 9), Error);
  EXPECT_THROW(session(0, 1), Error);
  EXPECT_THROW(session(max_context + 1, 0), Error);
  EXPECT_THROW(Session(model_, {.context = 32, .window = 16}), Error);
  Session without(model_, {.n_threads = 1});
  EXPECT_THROW(without.forget(0), Error);
  EXPECT_FALSE(without.slides());
  EXPECT_EQ(without.room(), 64);
  EXPECT_THROW(without.prefill(tokens_), ContextFull);
  Session with = session(8, 3);
  EXPECT_TRUE(with.slides());
  EXPECT_EQ(with.context(), 8u);
  EXPECT_EQ(with.keep(), 3u);
  EXPECT_THROW(with.forget(0, 5), Error);
  EXPECT_THROW(with.length(5), Error);
}

// A window of one token sees itself.
TEST_F(WindowSession, TheSmallestWindows) {
  Session one = session(1, 0);
  one.prefill(tokens_);
  Session fresh = session(1, 0);
  EXPECT_TRUE(same_logits(one.decode(3), fresh.decode(3), tiny_vocab, DType::f32));
  Session two = session(2, 1);
  two.prefill(tokens_);
  Session pair = session(2, 1);
  pair.decode(tokens_[0]);
  const auto a = two.decode(3);
  const auto b = pair.decode(3);
  for (size_t i = 0; i < tiny_vocab; ++i) EXPECT_NEAR(a[i], b[i], 1e-5);
}

TEST_F(WindowSession, MemoryIsThatOfTheWindow) {
  const SessionOptions options{.window = 40, .keep = 4, .n_threads = 1};
  Session s(model_, options);
  const auto cache = s.cache_bytes();
  s.prefill(tokens_);
  EXPECT_EQ(s.cache_bytes(), cache);
  EXPECT_EQ(cache, cache_bytes(model_.config(), options));
}

}  // namespace
}  // namespace vga::test
