#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "cpu/kernels.h"

namespace vga::cpu {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<float> random_floats(size_t n, uint32_t seed, float size = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

/// Encoded rows, one byte off every alignment.
class Encoded {
 public:
  Encoded(DType type, const std::vector<float>& values, size_t cols)
      : bytes_(1 + row_bytes(type, cols) * (values.size() / cols)) {
    for (size_t i = 0; i < values.size(); i += cols) {
      encode_row(type, {values.data() + i, cols},
                 bytes_.data() + 1 + i / cols * row_bytes(type, cols));
    }
  }
  const std::byte* data() const { return bytes_.data() + 1; }

 private:
  std::vector<std::byte> bytes_;
};

/// Every test compares the fastest table that this CPU runs with the scalar one.
class KernelsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (&fast == &scalar_kernels) GTEST_SKIP() << "this CPU has only the scalar kernels";
  }
  const Kernels& fast = best_kernels();
};

std::vector<float> project(const Kernels& kernels, DType type, const std::byte* w, size_t n_rows,
                           size_t cols, const std::vector<float>& x, size_t n_tokens) {
  std::vector<float> out(n_tokens * n_rows, NAN);
  std::vector<float> scratch(project_scratch(cols), NAN);
  kernels.project(type, w, n_rows, cols, x.data(), n_tokens, out.data(), n_rows, scratch.data());
  return out;
}

constexpr DType all_types[] = {DType::f32, DType::f16, DType::bf16, DType::q8_0};

TEST_F(KernelsTest, ProjectMatchesScalar) {
  for (const DType type : all_types) {
    for (size_t cols : {1, 7, 8, 31, 33, 64, 257, 544, 1031}) {
      if (type == DType::q8_0) cols = (cols + 31) / 32 * 32;
      for (const size_t n_rows : {1, 2, 3, 4, 5, 8, 13}) {
        const auto weights = random_floats(n_rows * cols, 1, 0.5f);
        const Encoded w(type, weights, cols);
        for (const size_t n_tokens : {1, 2, 3, 8, 9, 10, 11, 50}) {
          const auto x = random_floats(n_tokens * cols, 2);
          const auto expected = project(scalar_kernels, type, w.data(), n_rows, cols, x, n_tokens);
          const auto got = project(fast, type, w.data(), n_rows, cols, x, n_tokens);
          const float tolerance = 1e-6f * static_cast<float>(cols);
          for (size_t i = 0; i < got.size(); ++i) {
            ASSERT_NEAR(got[i], expected[i], tolerance)
                << name(type) << " " << n_rows << "x" << cols << ", " << n_tokens << " tokens";
          }
        }
      }
    }
  }
}

TEST_F(KernelsTest, ProjectIsBitIdenticalHoweverItIsSplit) {
  constexpr size_t n_rows = 21;
  constexpr size_t n_tokens = 50;
  for (const DType type : all_types) {
    for (size_t cols : {5, 512, 1031}) {
      if (type == DType::q8_0) cols = (cols + 31) / 32 * 32;
      const size_t stride = row_bytes(type, cols);
      const Encoded w(type, random_floats(n_rows * cols, 3), cols);
      const auto x = random_floats(n_tokens * cols, 4);
      const auto expected = project(fast, type, w.data(), n_rows, cols, x, n_tokens);
      std::vector<float> scratch(project_scratch(cols));
      for (const size_t tokens : {1, 2, 3, 4, 5, 7, 16, 33}) {
        for (const size_t rows : {1, 3, 4, 6, 8, 9, 21}) {
          std::vector<float> got(expected.size(), NAN);
          for (size_t t = 0; t < n_tokens; t += tokens) {
            for (size_t r = 0; r < n_rows; r += rows) {
              fast.project(type, w.data() + r * stride, std::min(rows, n_rows - r), cols,
                           x.data() + t * cols, std::min(tokens, n_tokens - t),
                           got.data() + t * n_rows + r, n_rows, scratch.data());
            }
          }
          ASSERT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0)
              << name(type) << ", " << cols << " columns, " << tokens << " tokens and " << rows
              << " rows at a time";
        }
      }
    }
  }
}

TEST_F(KernelsTest, ProjectWritesNothingElse) {
  constexpr size_t cols = 40;
  constexpr size_t stride = 9;
  const Encoded w(DType::f16, random_floats(5 * cols, 3), cols);
  const auto x = random_floats(12 * cols, 4);
  std::vector<float> scratch(project_scratch(cols));
  for (const size_t n_tokens : {1, 12}) {
    std::vector<float> out(12 * stride, 7);
    fast.project(DType::f16, w.data(), 5, cols, x.data(), n_tokens, out.data(), stride,
                 scratch.data());
    for (size_t i = 0; i < out.size(); ++i) {
      if (i % stride >= 5 || i / stride >= n_tokens) {
        ASSERT_EQ(out[i], 7) << i;
      }
    }
  }
}

TEST_F(KernelsTest, ProjectKeepsExtremeValues) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const size_t n_tokens : {1, 12}) {
      std::vector<float> weights(3 * 16, 0);
      weights[1] = 60000;       // close to the largest f16
      weights[16 + 2] = 6e-8f;  // a subnormal f16
      weights[32 + 3] = infinity;
      const Encoded w(type, weights, 16);
      const std::vector<float> x(n_tokens * 16, 2);
      const auto expected = project(scalar_kernels, type, w.data(), 3, 16, x, n_tokens);
      EXPECT_EQ(project(fast, type, w.data(), 3, 16, x, n_tokens), expected) << name(type);
    }
  }
}

/// softmax(q k^T * scale) v in double and in two passes.
std::vector<float> naive_attend(const std::vector<float>& q, size_t head_dim, float scale,
                                const std::vector<float>& k, const std::vector<float>& v) {
  std::vector<float> out(q.size());
  const size_t n = k.size() / head_dim;
  for (size_t h = 0; h < q.size() / head_dim; ++h) {
    std::vector<double> weights(n);
    for (size_t p = 0; p < n; ++p) {
      for (size_t i = 0; i < head_dim; ++i) {
        weights[p] += double{q[h * head_dim + i]} * double{k[p * head_dim + i]};
      }
      weights[p] *= double{scale};
    }
    const double max = *std::max_element(weights.begin(), weights.end());
    double total = 0;
    for (double& weight : weights) total += weight = std::exp(weight - max);
    for (size_t i = 0; i < head_dim; ++i) {
      double sum = 0;
      for (size_t p = 0; p < n; ++p) sum += weights[p] * double{v[p * head_dim + i]};
      out[h * head_dim + i] = static_cast<float>(sum / total);
    }
  }
  return out;
}

/// What the type keeps of the values.
std::vector<float> decoded(DType type, const Encoded& encoded, size_t n) {
  std::vector<float> values(n);
  decode_row(type, encoded.data(), values);
  return values;
}

std::vector<float> attend(const Kernels& kernels, DType type, const std::vector<float>& q,
                          size_t head_dim, float scale, const Encoded& k, const Encoded& v,
                          size_t n) {
  const size_t n_heads = q.size() / head_dim;
  std::vector<float> out(q.size(), NAN);
  std::vector<float> scratch(attend_scratch(n_heads, head_dim), NAN);
  kernels.attend(q.data(), n_heads, head_dim, scale, {type, k.data(), v.data(), n}, out.data(),
                 scratch.data());
  return out;
}

// Also without fast kernels: the scalar one computes online too.
TEST(AttendTest, MatchesANaiveSoftmax) {
  for (const Kernels* kernels : {&scalar_kernels, &best_kernels()}) {
    for (const DType type : {DType::f32, DType::f16}) {
      for (const size_t head_dim : {1, 7, 32, 45, 64, 80, 128}) {
        const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
        for (const size_t n : {1, 2, 63, 64, 65, 200}) {
          const Encoded k(type, random_floats(n * head_dim, 5), head_dim);
          const Encoded v(type, random_floats(n * head_dim, 6), head_dim);
          for (const size_t n_heads : {1, 2, 3, 4, 8, 9}) {
            const auto q = random_floats(n_heads * head_dim, 7, 3);
            const auto expected = naive_attend(q, head_dim, scale, decoded(type, k, n * head_dim),
                                               decoded(type, v, n * head_dim));
            const auto got = attend(*kernels, type, q, head_dim, scale, k, v, n);
            for (size_t i = 0; i < got.size(); ++i) {
              ASSERT_NEAR(got[i], expected[i], 1e-5f)
                  << kernels->name << " " << name(type) << ", head_dim " << head_dim << ", n " << n
                  << ", heads " << n_heads;
            }
          }
        }
      }
    }
  }
}

TEST(AttendTest, SurvivesScoresThatExpCannotHold) {
  constexpr size_t head_dim = 8;
  constexpr size_t n = 130;
  for (const Kernels* kernels : {&scalar_kernels, &best_kernels()}) {
    std::vector<float> keys(n * head_dim, -1000);
    std::fill_n(keys.begin() + 100 * head_dim, head_dim, 1000.f);  // wins by e^16000
    const std::vector<float> values = random_floats(n * head_dim, 8);
    const std::vector<float> q(head_dim, 1);
    const auto got = attend(*kernels, DType::f32, q, head_dim, 1, {DType::f32, keys, head_dim},
                            {DType::f32, values, head_dim}, n);
    for (size_t i = 0; i < head_dim; ++i) EXPECT_EQ(got[i], values[100 * head_dim + i]);
  }
}

TEST_F(KernelsTest, AttendDoesNotDependOnTheOtherHeads) {
  constexpr size_t head_dim = 80;
  constexpr size_t n = 150;
  const Encoded k(DType::f16, random_floats(n * head_dim, 5), head_dim);
  const Encoded v(DType::f16, random_floats(n * head_dim, 6), head_dim);
  const auto q = random_floats(10 * head_dim, 7);
  const auto all = attend(fast, DType::f16, q, head_dim, 0.1f, k, v, n);
  for (size_t h = 0; h < 10; ++h) {
    const std::vector<float> one(q.begin() + h * head_dim, q.begin() + (h + 1) * head_dim);
    const auto got = attend(fast, DType::f16, one, head_dim, 0.1f, k, v, n);
    ASSERT_TRUE(std::equal(got.begin(), got.end(), all.begin() + h * head_dim)) << h;
  }
}

TEST_F(KernelsTest, SigmoidIsAccurateEverywhere) {
  std::vector<float> x;
  for (int i = -150'000; i < 150'000; ++i) x.push_back(static_cast<float>(i * 0.000731));
  auto got = x;
  fast.sigmoid(got.data(), got.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = 1 / (1 + std::exp(-double{x[i]}));
    // Below 2^-126 floats are subnormal, and 1 / infinity is 0.
    ASSERT_NEAR(got[i], expected, std::max(2.5e-7 * expected, 0x1p-126)) << x[i];
  }
  std::vector<float> extreme = {infinity, -infinity, 1e30f, -1e30f, 0, -0.f, NAN};
  fast.sigmoid(extreme.data(), extreme.size());
  EXPECT_EQ(std::vector<float>(extreme.begin(), extreme.end() - 1),
            (std::vector<float>{1, 0, 1, 0, 0.5f, 0.5f}));
  EXPECT_TRUE(std::isnan(extreme.back()));
}

TEST_F(KernelsTest, ElementWiseKernelsMatchScalar) {
  for (const size_t n : {1, 2, 7, 8, 9, 16, 100, 1003}) {
    const auto x = random_floats(n, 9, 3);
    const auto y = random_floats(n, 10);
    auto expected = x;
    auto got = x;
    const auto compare = [&](const char* kernel) {
      for (size_t i = 0; i < n; ++i) {
        ASSERT_NEAR(got[i], expected[i], 1e-6f * (1 + std::fabs(expected[i])))
            << kernel << ", n " << n;
      }
      got = expected = x;
    };
    scalar_kernels.swiglu(expected.data(), y.data(), n);
    fast.swiglu(got.data(), y.data(), n);
    compare("swiglu");
    scalar_kernels.add(expected.data(), y.data(), n);
    fast.add(got.data(), y.data(), n);
    compare("add");
    scalar_kernels.scale(expected.data(), 0.3f, n);
    fast.scale(got.data(), 0.3f, n);
    compare("scale");
    scalar_kernels.rms_norm(x.data(), y.data(), n, 1e-5f, expected.data());
    fast.rms_norm(x.data(), y.data(), n, 1e-5f, got.data());
    compare("rms_norm");
  }
}

TEST_F(KernelsTest, RmsNormSquaresTheLargestFloats) {
  const std::vector<float> x = {3e38f, -3e38f, 3e38f};
  const std::vector<float> weight = {1, 2, 3};
  std::vector<float> out(3);
  fast.rms_norm(x.data(), weight.data(), 3, 1e-5f, out.data());
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(std::fabs(out[i]), weight[i], 1e-5f);
}

TEST_F(KernelsTest, RopeMatchesScalar) {
  for (const bool half_split : {false, true}) {
    for (const size_t n_pairs : {1, 3, 8, 16, 33}) {
      std::vector<float> cos_sin;
      for (const float angle : random_floats(n_pairs, 11, 10)) {
        cos_sin.push_back(std::cos(angle));
        cos_sin.push_back(std::sin(angle));
      }
      auto expected = random_floats(2 * n_pairs, 12);
      auto got = expected;
      scalar_kernels.rope(expected.data(), cos_sin.data(), n_pairs, half_split);
      fast.rope(got.data(), cos_sin.data(), n_pairs, half_split);
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-6f);
    }
  }
}

TEST_F(KernelsTest, ToF16MatchesScalar) {
  std::vector<float> x = random_floats(1003, 13, 100);
  for (const float special : {0.f, -0.f, 65504.f, 65519.99f, 65520.f, 1e30f, infinity, -infinity,
                              6e-8f, 2.9e-8f, 3e-8f, 6.1e-5f, 1e-30f}) {
    x.push_back(special);
  }
  std::vector<uint16_t> expected(x.size());
  std::vector<uint16_t> got(x.size() + 1, 7);
  scalar_kernels.to_f16(x.data(), x.size(), expected.data());
  fast.to_f16(x.data(), x.size(), got.data());
  EXPECT_EQ(got.back(), 7);
  got.pop_back();
  EXPECT_EQ(got, expected);
}

}  // namespace
}  // namespace vga::cpu
