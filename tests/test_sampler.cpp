#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "vga/error.h"
#include "vga/sampler.h"

namespace vga {
namespace {

constexpr std::array<float, 5> five_logits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};

std::vector<size_t> draw(const SamplerOptions& options, size_t n) {
  Sampler sampler(options);
  std::vector<size_t> counts(five_logits.size());
  for (size_t i = 0; i < n; ++i) ++counts[static_cast<size_t>(sampler.sample(five_logits))];
  return counts;
}

SamplerOptions plain() {
  return {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0};
}

TEST(Sampler, GreedyTakesTheLikeliestAndTheLowerOfEquals) {
  Sampler sampler({.temperature = 0});
  EXPECT_EQ(sampler.sample(five_logits), 1);
}

/// Logits many of which are equal, some negative infinity and, with `nan`, some no numbers.
std::vector<float> odd_logits(size_t n, uint32_t seed, float nan = 0) {
  std::mt19937 random(seed);
  std::vector<float> values(n);
  for (float& x : values) {
    const uint32_t any = random() % 100;
    x = any == 0   ? nan
        : any == 1 ? -INFINITY
        : any == 2 ? -0.f
                   : static_cast<float>(static_cast<int>(random() % 41) - 20) / 4;
  }
  return values;
}

TEST(Candidate, LikeliestAreTheFirstOfAll) {
  for (const size_t n : {1, 2, 40, 333, 3000}) {
    const std::vector<float> values = odd_logits(n, static_cast<uint32_t>(n), NAN);
    std::vector<Candidate> all(n);
    for (size_t i = 0; i < n; ++i) all[i] = {static_cast<Token>(i), values[i]};
    std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
      return a.logit > b.logit || (std::isnan(a.logit) && !std::isnan(b.logit));
    });
    for (const size_t k : {size_t{1}, std::min<size_t>(n, 7), (n + 1) / 2, n}) {
      std::vector<Candidate> found(k);
      find_likeliest(values, found);
      for (size_t i = 0; i < k; ++i) ASSERT_EQ(found[i].token, all[i].token) << n << ' ' << i;
    }
  }
}

TEST(Candidate, WhatIsNoNumberComesFirst) {
  std::array<Candidate, 1> found;
  for (const size_t place : {0, 1, 255, 256, 257, 600, 999}) {
    std::vector<float> values(1000, 1.f);
    values[0] = 5;
    values[place] = place % 2 == 0 ? NAN : -NAN;
    find_likeliest(values, found);
    EXPECT_EQ(found[0].token, static_cast<Token>(place));
    EXPECT_TRUE(std::isnan(found[0].logit));
  }
}

TEST(Sampler, RefusesLogitsThatAreNotFinite) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const SamplerOptions& options :
       {SamplerOptions{.temperature = 0}, SamplerOptions{}, SamplerOptions{.top_k = 0},
        SamplerOptions{.temperature = 0, .repeat_penalty = 2}}) {
    Sampler sampler(options);
    sampler.accept(0);
    for (const float bad : {NAN, infinity}) {
      for (size_t place = 0; place < five_logits.size(); ++place) {
        auto values = five_logits;
        values[place] = bad;
        EXPECT_THROW(sampler.sample(values), NotFinite) << bad << ' ' << place;
      }
    }
    EXPECT_THROW(sampler.sample(std::array{-infinity, -infinity}), NotFinite);
    // A token that never comes.
    EXPECT_EQ(sampler.sample(std::array{-infinity, 1.f, -infinity}), 1);
  }
}

TEST(Sampler, TheLikeliestSuffice) {
  for (const SamplerOptions& options :
       {SamplerOptions{.temperature = 0}, SamplerOptions{.top_k = 1}, SamplerOptions{.top_k = 7},
        SamplerOptions{.top_k = 300}, SamplerOptions{.temperature = 5, .top_p = 1, .min_p = 0}}) {
    Sampler whole(options);
    Sampler part(options);
    for (uint32_t i = 0; i < 200; ++i) {
      const std::vector<float> values = odd_logits(100, i);
      std::vector<Candidate> likeliest(std::min<size_t>(part.n_candidates(), values.size()));
      find_likeliest(values, likeliest);
      ASSERT_EQ(part.sample(likeliest), whole.sample(values));
    }
  }
  EXPECT_EQ(Sampler({.temperature = 0, .top_k = 7}).n_candidates(), 1u);
  EXPECT_EQ(Sampler({.top_k = 7}).n_candidates(), 7u);
  EXPECT_EQ(Sampler({.top_k = 0}).n_candidates(), 0u);
  EXPECT_EQ(Sampler({.temperature = 0, .repeat_penalty = 1.1f}).n_candidates(), 0u);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  constexpr size_t n = 200'000;
  const auto counts = draw(plain(), n);
  double total = 0;
  for (const float logit : five_logits) total += std::exp(double{logit});
  for (size_t i = 0; i < five_logits.size(); ++i) {
    const double p = std::exp(double{five_logits[i]}) / total;
    // Five standard deviations of a binomial.
    EXPECT_NEAR(static_cast<double>(counts[i]), n * p, 5 * std::sqrt(n * p * (1 - p)));
  }
}

TEST(Sampler, TemperatureSharpens) {
  SamplerOptions cold = plain();
  cold.temperature = 0.1f;
  const auto counts = draw(cold, 10'000);
  EXPECT_EQ(counts[0] + counts[4], 0u);  // e^-20 and less
  EXPECT_GT(counts[1], 4000u);
  EXPECT_GT(counts[3], 4000u);
}

TEST(Sampler, TopKKeepsK) {
  SamplerOptions options = plain();
  options.top_k = 2;
  const auto counts = draw(options, 5000);
  EXPECT_EQ(counts[1] + counts[3], 5000u);
  options.top_k = 1;
  EXPECT_EQ(draw(options, 100)[1], 100u);
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  // Probabilities .40 .40 .15 .05 .01: 0.81 needs the third.
  SamplerOptions options = plain();
  options.top_p = 0.75f;
  auto counts = draw(options, 5000);
  EXPECT_EQ(counts[1] + counts[3], 5000u);
  options.top_p = 0.82f;
  counts = draw(options, 5000);
  EXPECT_GT(counts[2], 0u);
  EXPECT_EQ(counts[0] + counts[4], 0u);
}

TEST(Sampler, MinPDropsTheUnlikely) {
  SamplerOptions options = plain();
  options.min_p = 0.3f;  // e^-1 = .37 stays, e^-2 = .14 goes
  const auto counts = draw(options, 5000);
  EXPECT_GT(counts[2], 0u);
  EXPECT_EQ(counts[0] + counts[4], 0u);
}

// What is cut off is cut off by the model's own probabilities, however flat a temperature makes
// them.
TEST(Sampler, TemperatureComesLast) {
  SamplerOptions options = plain();
  options.temperature = 50;
  options.top_p = 0.75f;
  auto counts = draw(options, 5000);
  EXPECT_EQ(counts[1] + counts[3], 5000u);
  options.top_p = 1;
  options.min_p = 0.3f;
  counts = draw(options, 5000);
  EXPECT_EQ(counts[0] + counts[4], 0u);
  EXPECT_NEAR(static_cast<double>(counts[2]), 5000 / 3.0, 200);  // nearly as likely as the others
  options.temperature = 0.1f;
  EXPECT_LT(draw(options, 5000)[2], 20u);  // e^-10
}

TEST(Sampler, RepeatPenaltyLooksBackAsFarAsAsked) {
  Sampler sampler({.temperature = 0, .repeat_penalty = 2, .repeat_last = 1});
  sampler.accept(1);
  EXPECT_EQ(sampler.sample(five_logits), 3);
  sampler.accept(3);  // 1 is forgotten
  EXPECT_EQ(sampler.sample(five_logits), 1);
}

// As OpenAI has them: for having come, and for each time; and a bias that is there from the start.
TEST(Sampler, PenaltiesCountWhatCame) {
  const auto greedy = [](SamplerOptions options, std::initializer_list<Token> came) {
    options.temperature = 0;
    Sampler sampler(options);
    for (const Token token : came) sampler.accept(token);
    return sampler.sample(five_logits);
  };
  EXPECT_EQ(greedy({.presence_penalty = 0.5f}, {1}), 3);
  EXPECT_EQ(greedy({.presence_penalty = 0.5f}, {1, 1, 1, 3}), 1);  // as much for both
  EXPECT_EQ(greedy({.frequency_penalty = 0.5f}, {1, 1, 1, 3}), 3);
  EXPECT_EQ(greedy({.presence_penalty = 1, .frequency_penalty = 0.25f}, {1, 1, 1, 3}), 2);
  EXPECT_EQ(greedy({.presence_penalty = -2}, {0}), 0);
  EXPECT_EQ(greedy({.repeat_last = 1, .presence_penalty = 0.5f}, {1, 0}), 3);  // also long ago
  EXPECT_EQ(greedy({.logit_bias = {{4, 4.5f}}}, {}), 4);
  EXPECT_EQ(greedy({.logit_bias = {{1, -1}, {3, -2}}}, {}), 1);
  EXPECT_THROW(greedy({.logit_bias = {{5, 1}}}, {}), Error);
}

TEST(Sampler, RefusesToPenalizeWhatIsNoToken) {
  for (const Token bad : {-1, static_cast<Token>(five_logits.size()), 1 << 30}) {
    Sampler sampler({.temperature = 0, .repeat_penalty = 2});
    sampler.accept(bad);
    EXPECT_THROW(sampler.sample(five_logits), Error) << bad;
  }
}

TEST(Sampler, TheSameSeedDrawsTheSame) {
  for (const uint64_t seed : {0ull, 1ull, 12345678901ull}) {
    Sampler a({.seed = seed});
    Sampler b({.seed = seed});
    for (int i = 0; i < 100; ++i) EXPECT_EQ(a.sample(five_logits), b.sample(five_logits));
  }
  EXPECT_NE(draw({.seed = 1}, 1000), draw({.seed = 2}, 1000));
}

TEST(Sampler, ATopPOfOneKeepsWhatHardlyCounts) {
  std::vector<float> logits(10, 0);
  logits[0] = 40;
  Sampler sampler({.temperature = 100, .top_k = 0, .top_p = 1, .min_p = 0});
  size_t first = 0;
  for (int i = 0; i < 1000; ++i) first += sampler.sample(logits) == 0;
  EXPECT_NEAR(static_cast<double>(first), 142, 50);  // e^.4 / (e^.4 + 9) of them
}

TEST(Sampler, RefusesNonsense) {
  const float nan = std::nanf("");
  for (const SamplerOptions& bad :
       {SamplerOptions{.temperature = -1}, SamplerOptions{.temperature = nan},
        SamplerOptions{.temperature = std::numeric_limits<float>::infinity()},
        SamplerOptions{.top_p = 0}, SamplerOptions{.top_p = nan}, SamplerOptions{.min_p = 2},
        SamplerOptions{.repeat_penalty = 0}, SamplerOptions{.repeat_penalty = 1e-38f},
        SamplerOptions{.repeat_penalty = nan}, SamplerOptions{.presence_penalty = 2.5f},
        SamplerOptions{.frequency_penalty = nan}, SamplerOptions{.logit_bias = {{0, 100.5f}}}}) {
    EXPECT_THROW(Sampler{bad}, Error);
  }
}

}  // namespace
}  // namespace vga
