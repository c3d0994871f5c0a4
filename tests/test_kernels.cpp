#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "cpu/kernels.h"
#include "cpu/panels.h"
#include "encoded.h"
#include "environment.h"
#include "gguf/blocks.h"
#include "gguf/decode.h"
#include "vga/error.h"

namespace vga::cpu {
namespace {

using test::all_types;
using test::Encoded;
using test::random_floats;
using test::small_integers;
using test::whole_blocks;

/// Every test compares each fast table that this CPU runs with the scalar one.
class KernelsTest : public testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& fast = *GetParam();
};

/// A weight as some kernels want it.
class Weight {
 public:
  Weight(const Kernels& kernels, DType type, const std::vector<float>& values, size_t cols)
      : Weight(kernels, type, values.size() / cols, cols, Encoded(type, values, cols)) {}
  Weight(const Kernels& kernels, DType type, size_t n_rows, size_t cols, Encoded rows)
      : rows_(std::move(rows)),
        tensor_{.type = type, .rows = n_rows, .cols = cols, .data = rows_.data()} {
    if (kernels.lanes == 0) return;
    const size_t n = n_panels(tensor_, kernels.lanes);
    panels_.resize(1 + n * panel_bytes(tensor_, kernels.lanes));  // one byte off every alignment
    for (size_t i = 0; i < n; ++i) write_panel(tensor_, i, kernels.lanes, &panels_[1]);
    tensor_.data = &panels_[1];
    tensor_.layout = Layout::panels;
  }
  const Tensor& tensor() const { return tensor_; }

 private:
  Encoded rows_;
  std::vector<std::byte> panels_;
  Tensor tensor_;
};

std::vector<float> prepare(const Kernels& kernels, DType type, const std::vector<float>& x,
                           size_t cols) {
  const size_t n_tokens = x.size() / cols;
  std::vector<float> prepared(prepared_size(n_tokens, cols), NAN);
  kernels.prepare(type, x.data(), 0, n_tokens, cols, prepared.data());
  return prepared;
}

std::vector<float> project(const Kernels& kernels, const Weight& w, const std::vector<float>& x) {
  const Tensor& t = w.tensor();
  const size_t n_tokens = x.size() / t.cols;
  std::vector<float> out(n_tokens * t.rows, NAN);
  kernels.project(t, 0, t.rows, prepare(kernels, t.type, x, t.cols).data(), n_tokens, out.data(),
                  t.rows, false);
  return out;
}

TEST_P(KernelsTest, ProjectMatchesScalar) {
  for (const DType type : all_types) {
    for (size_t cols : {1, 7, 33, 64, 257, 544, 1031}) {
      cols = whole_blocks(type, cols);
      for (const size_t n_rows : {1, 2, 7, 8, 9, 16, 17, 33, 70}) {
        const Encoded rows = is_plain(type)
                                 ? Encoded(type, random_floats(n_rows * cols, 1, 0.5f), cols)
                                 : Encoded::bits(type, n_rows, cols);
        const Weight w(scalar_kernels, type, n_rows, cols, rows);
        const Weight fast_w(fast, type, n_rows, cols, rows);
        for (const size_t n_tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 31}) {
          const auto x = random_floats(n_tokens * cols, 2);
          const auto expected = project(scalar_kernels, w, x);
          const auto got = project(fast, fast_w, x);
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

// Rows that take turns with another weight's become the same panels as if they stood together.
TEST_P(KernelsTest, TurnsLeaveNoTraceInPanels) {
  constexpr size_t n_rows = 20;
  for (const DType type : all_types) {
    const size_t cols = whole_blocks(type, 70);
    const size_t row = row_bytes(type, cols);
    const Encoded file = is_plain(type) ? Encoded(type, random_floats(2 * n_rows * cols, 5), cols)
                                        : Encoded::bits(type, 2 * n_rows, cols);
    for (const size_t turn : {1, 2, 5, 10, 20}) {
      const Tensor turning{
          .type = type, .rows = n_rows, .cols = cols, .data = file.data(), .turn = turn};
      std::vector<std::byte> together;
      for (size_t r = 0; r < n_rows; ++r) {
        const std::byte* from = file.data() + (r / turn * 2 * turn + r % turn) * row;
        together.insert(together.end(), from, from + row);
      }
      const Tensor plain{.type = type, .rows = n_rows, .cols = cols, .data = together.data()};
      const size_t bytes = n_panels(plain, fast.lanes) * panel_bytes(plain, fast.lanes);
      std::vector<std::byte> expected(bytes);
      std::vector<std::byte> found(bytes);
      for (size_t i = 0; i < n_panels(plain, fast.lanes); ++i) {
        write_panel(plain, i, fast.lanes, expected.data());
        write_panel(turning, i, fast.lanes, found.data());
      }
      EXPECT_EQ(found, expected) << name(type) << ", turns of " << turn;
    }
  }
}

TEST_P(KernelsTest, ProjectIsBitIdenticalHoweverItIsSplit) {
  constexpr size_t n_rows = 37;
  constexpr size_t n_tokens = 50;
  for (const DType type : all_types) {
    for (size_t cols : {5, 512, 1031}) {
      cols = whole_blocks(type, cols);
      const Encoded rows = is_plain(type) ? Encoded(type, random_floats(n_rows * cols, 3), cols)
                                          : Encoded::bits(type, n_rows, cols);
      const Weight w(fast, type, n_rows, cols, rows);
      const auto x = random_floats(n_tokens * cols, 4);
      const auto expected = project(fast, w, x);
      for (const size_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 33}) {
        for (const size_t step : {project_group, 2 * project_group}) {
          std::vector<float> got(expected.size(), NAN);
          for (size_t t = 0; t < n_tokens; t += tokens) {
            const size_t n = std::min(tokens, n_tokens - t);
            const std::vector<float> part(&x[t * cols], &x[t * cols] + n * cols);
            const auto prepared = prepare(fast, type, part, cols);
            for (size_t r = 0; r < n_rows; r += step) {
              fast.project(w.tensor(), r, std::min(r + step, n_rows), prepared.data(), n,
                           &got[t * n_rows + r], n_rows, false);
            }
          }
          ASSERT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0)
              << name(type) << ", " << cols << " columns, " << tokens << " tokens and " << step
              << " rows at a time";
        }
      }
    }
  }
}

TEST_P(KernelsTest, PrepareInPartsIsPrepareAtOnce) {
  constexpr size_t cols = 96;
  constexpr size_t n_tokens = 47;
  const auto x = random_floats(n_tokens * cols, 4);
  for (const DType type : {DType::f32, DType::q8_0}) {
    std::vector<float> expected(prepared_size(n_tokens, cols));
    std::vector<float> got(expected.size());
    fast.prepare(type, x.data(), 0, n_tokens, cols, expected.data());
    for (const size_t begin : {0, 24, 36}) {
      const size_t end = begin == 0 ? 24 : begin == 24 ? 36 : n_tokens;
      fast.prepare(type, x.data(), begin, end, cols, got.data());
    }
    ASSERT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0);
  }
}

TEST_P(KernelsTest, ProjectAddsToWhatIsThere) {
  for (const DType type : {DType::f32, DType::f16, DType::q4_0}) {
    const size_t cols = whole_blocks(type, 16);
    for (const size_t n_rows : {1, 9, 37}) {
      const Weight w(fast, type, random_floats(n_rows * cols, 3), cols);
      for (const size_t n_tokens : {1, 5, 13}) {
        const auto x = random_floats(n_tokens * cols, 4);
        const auto product = project(fast, w, x);
        auto got = random_floats(n_tokens * n_rows, 5);
        auto expected = got;
        for (size_t i = 0; i < got.size(); ++i) expected[i] += product[i];
        fast.project(w.tensor(), 0, n_rows, prepare(fast, type, x, cols).data(), n_tokens,
                     got.data(), n_rows, true);
        ASSERT_EQ(got, expected) << name(type) << ", " << n_rows << " rows, " << n_tokens;
      }
    }
  }
}

TEST_P(KernelsTest, ProjectWritesNothingElse) {
  constexpr size_t cols = 64;
  constexpr size_t stride = 9;
  for (const DType type : {DType::f16, DType::q4_0}) {
    const Weight w(fast, type, random_floats(5 * cols, 3), cols);
    for (const size_t n_tokens : {1, 12}) {
      const auto x = prepare(fast, type, random_floats(n_tokens * cols, 4), cols);
      std::vector<float> out(12 * stride, 7);
      fast.project(w.tensor(), 0, 5, x.data(), n_tokens, out.data(), stride, false);
      for (size_t i = 0; i < out.size(); ++i) {
        if (i % stride >= 5 || i / stride >= n_tokens) {
          ASSERT_EQ(out[i], 7) << i;
        }
      }
    }
  }
}

TEST_P(KernelsTest, ProjectKeepsExtremeValues) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    for (const size_t n_tokens : {1, 12}) {
      std::vector<float> weights(3 * 16, 0);
      weights[1] = 60000;       // close to the largest f16
      weights[16 + 2] = 6e-8f;  // a subnormal f16
      weights[32 + 3] = INFINITY;
      const std::vector<float> x(n_tokens * 16, 2);
      const auto expected = project(scalar_kernels, {scalar_kernels, type, weights, 16}, x);
      EXPECT_EQ(project(fast, {fast, type, weights, 16}, x), expected) << name(type);
    }
  }
}

// Products of bytes come close to what 16 bits hold: the largest of every format, with either sign.
TEST_P(KernelsTest, QuantizedProductsDoNotOverflow) {
  constexpr size_t cols = 256;
  for (const DType type : all_types) {
    if (is_plain(type)) continue;
    for (const int byte : {0x00, 0x7F, 0x80, 0x81, 0xFF}) {
      const Encoded rows = Encoded::bits(type, 1, cols, byte);
      for (const float sign : {1.f, -1.f}) {
        const std::vector<float> x(cols, 3 * sign);
        const auto expected = project(scalar_kernels, {scalar_kernels, type, 1, cols, rows}, x);
        const auto got = project(fast, {fast, type, 1, cols, rows}, x);
        EXPECT_NEAR(got[0], expected[0], 1e-6f * std::fabs(expected[0]) + 1e-4f)
            << name(type) << " " << byte << " " << sign;
      }
    }
  }
}

TEST_P(KernelsTest, ActivationsThatAreNoNumbersStayVisible) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> x(64, 1);
    x[40] = bad;
    for (const DType type : {DType::f16, DType::q8_0, DType::q4_1}) {
      const auto got = project(fast, {fast, type, random_floats(3 * 64, 3), 64}, x);
      for (const float y : got) EXPECT_FALSE(std::isfinite(y)) << name(type);
    }
  }
  // And the smallest numbers give no false ones.
  const std::vector<float> tiny(32, 1e-38f);
  EXPECT_EQ(project(fast, {fast, DType::q8_0, random_floats(32, 3), 32}, tiny)[0], 0);
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

/// One head's keys and values, as a table of kernels keeps them in pages.
class CachedHead {
 public:
  CachedHead(const Kernels& kernels, DType type, size_t head_dim, const std::vector<float>& keys,
             const std::vector<float>& values)
      : kernels_(kernels), shape_{0, 1, 1, 0, page_positions, 1, head_dim, type} {
    const size_t n = keys.size() / head_dim;
    const size_t n_pages = (n + page_positions - 1) / page_positions;
    keys_.resize(n_pages * shape_.page_bytes());
    values_.resize(n_pages * shape_.page_bytes());
    for (size_t p = 0; p < n; ++p) {
      const size_t at = p / page_positions * shape_.page_bytes();
      kernels.write_key(type, &keys[p * head_dim], head_dim, keys_.data() + at, p % page_positions);
      kernels.write_value(type, &values[p * head_dim], head_dim, values_.data() + at,
                          p % page_positions);
    }
  }

  /// What one page gives queries (n, head_dim) that see [begin[i], end[i]) of it: per query the
  /// highest score, the total and head_dim weighted values.
  std::vector<float> attend(const std::vector<float>& q, std::vector<uint32_t> begin,
                            std::vector<uint32_t> end, float scale, size_t page = 0) const {
    const size_t n = begin.size();
    const size_t head_dim = shape_.head_dim;
    std::vector<float> results(n * (head_dim + 2), NAN);
    std::vector<float> scratch(attend_scratch(head_dim), NAN);
    kernels_.attend({.type = shape_.type,
                     .head_dim = head_dim,
                     .scale = scale,
                     .cap = 0,
                     .keys = keys_.data() + page * shape_.page_bytes(),
                     .values = values_.data() + page * shape_.page_bytes(),
                     .q = q.data(),
                     .n_queries = n,
                     .begin = begin.data(),
                     .end = end.data(),
                     .highest = results.data(),
                     .total = results.data() + n,
                     .out = results.data() + 2 * n},
                    scratch.data());
    return results;
  }

 private:
  const Kernels& kernels_;
  CacheShape shape_;
  std::vector<std::byte> keys_;    // (n_pages) pages
  std::vector<std::byte> values_;  // (n_pages) pages
};

/// What the type keeps of rows of values.
std::vector<float> rounded(DType type, const std::vector<float>& values, size_t cols) {
  std::vector<float> result(values.size());
  const Encoded encoded(type, values, cols);
  for (size_t i = 0; i < values.size(); i += cols) {
    decode_row(type, encoded.data() + i / cols * row_bytes(type, cols), {&result[i], cols});
  }
  return result;
}

// Also without fast kernels: the scalar one has a definition to meet, too.
TEST(AttendTest, MatchesANaiveSoftmax) {
  for (const DType type : {DType::f32, DType::f16, DType::q8_0}) {
    for (const size_t head_dim : {1, 7, 32, 45, 64, 80, 96, 128}) {
      if (head_dim % block_elements(type) != 0) continue;
      const auto all_q = small_integers(24 * head_dim, 7);
      const float scale = 3e-4f / std::sqrt(static_cast<float>(head_dim));
      for (const size_t n : {1, 2, 15, 16, 17, 63, 200, 256}) {
        const auto keys = small_integers(n * head_dim, 5);
        const auto values = random_floats(n * head_dim, 6);
        const auto expected =
            naive_attend(all_q, head_dim, scale, keys, rounded(type, values, head_dim));
        for (const Kernels* kernels : supported_kernels()) {
          const CachedHead cache(*kernels, type, head_dim, keys, values);
          for (const size_t n_queries : {1, 2, 3, 4, 8, 9, 12, 24}) {
            const std::vector<float> q(all_q.begin(), all_q.begin() + n_queries * head_dim);
            const auto got =
                cache.attend(q, std::vector<uint32_t>(n_queries, 0),
                             std::vector<uint32_t>(n_queries, static_cast<uint32_t>(n)), scale);
            for (size_t i = 0; i < q.size(); ++i) {
              ASSERT_NEAR(got[2 * n_queries + i] / got[n_queries + i / head_dim], expected[i],
                          1e-5f)
                  << kernels->name << " " << name(type) << ", head_dim " << head_dim << ", n " << n
                  << ", queries " << n_queries;
            }
          }
        }
      }
    }
  }
}

TEST(AttendTest, SeesItsPositionsAlone) {
  constexpr size_t head_dim = 32;
  for (const Kernels* kernels : supported_kernels()) {
    for (const DType type : {DType::f32, DType::f16, DType::q8_0}) {
      const auto keys = small_integers(300 * head_dim, 5);
      const auto values = random_floats(300 * head_dim, 6);
      const CachedHead cache(*kernels, type, head_dim, keys, values);
      const auto q = small_integers(5 * head_dim, 7);
      const std::vector<uint32_t> begin = {0, 3, 17, 40, 40};
      const std::vector<uint32_t> end = {1, 20, 18, 40, 44};
      const auto got = cache.attend(q, begin, end, 1e-4f, 1);
      for (size_t i = 0; i < 5; ++i) {
        const std::vector<float> one(q.begin() + i * head_dim, q.begin() + (i + 1) * head_dim);
        const auto rows = [&](const std::vector<float>& all) {
          return std::vector<float>(all.begin() + (page_positions + begin[i]) * head_dim,
                                    all.begin() + (page_positions + end[i]) * head_dim);
        };
        if (begin[i] == end[i]) {
          EXPECT_EQ(got[i], -INFINITY);
          EXPECT_EQ(got[5 + i], 0);
          for (size_t j = 0; j < head_dim; ++j) EXPECT_EQ(got[10 + i * head_dim + j], 0);
          continue;
        }
        const auto expected =
            naive_attend(one, head_dim, 1e-4f, rows(keys), rounded(type, rows(values), head_dim));
        for (size_t j = 0; j < head_dim; ++j) {
          EXPECT_NEAR(got[10 + i * head_dim + j] / got[5 + i], expected[j], 1e-5f)
              << kernels->name << " " << name(type) << ", query " << i;
        }
      }
    }
  }
}

TEST(AttendTest, SurvivesScoresThatExpCannotHold) {
  constexpr size_t head_dim = 8;
  constexpr size_t n = 130;
  for (const Kernels* kernels : supported_kernels()) {
    std::vector<float> keys(n * head_dim, -1000);
    std::fill_n(keys.begin() + 100 * head_dim, head_dim, 1000.f);  // wins by e^16000
    const std::vector<float> values = random_floats(n * head_dim, 8);
    const CachedHead cache(*kernels, DType::f32, head_dim, keys, values);
    const auto got = cache.attend(std::vector<float>(head_dim, 1), {0}, {n}, 1);
    EXPECT_EQ(got[0], 8000);
    EXPECT_EQ(got[1], 1);
    for (size_t i = 0; i < head_dim; ++i) EXPECT_EQ(got[2 + i], values[100 * head_dim + i]);
  }
}

TEST_P(KernelsTest, AttendDoesNotDependOnTheOtherQueries) {
  for (const DType type : {DType::f32, DType::f16, DType::q8_0}) {
    constexpr size_t head_dim = 96;
    const CachedHead cache(fast, type, head_dim, random_floats(150 * head_dim, 5),
                           random_floats(150 * head_dim, 6));
    const auto q = random_floats(24 * head_dim, 7);
    std::vector<uint32_t> begin(24);
    std::vector<uint32_t> end(24);
    for (uint32_t i = 0; i < 24; ++i) {
      begin[i] = i * 3;
      end[i] = 100 + 2 * i;
    }
    const auto all = cache.attend(q, begin, end, 0.1f);
    for (size_t i = 0; i < 24; ++i) {
      const std::vector<float> one(q.begin() + i * head_dim, q.begin() + (i + 1) * head_dim);
      const auto got = cache.attend(one, {begin[i]}, {end[i]}, 0.1f);
      EXPECT_EQ(got[0], all[i]);
      EXPECT_EQ(got[1], all[24 + i]);
      ASSERT_TRUE(std::equal(got.begin() + 2, got.end(), all.begin() + 48 + i * head_dim))
          << name(type) << " " << i;
    }
  }
}

TEST_P(KernelsTest, SigmoidIsAccurateEverywhere) {
  std::vector<float> x;
  for (int i = -150'000; i < 150'000; ++i) x.push_back(static_cast<float>(i * 0.000731));
  auto got = x;
  fast.activate(Activation::sigmoid, got.data(), nullptr, got.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = 1 / (1 + std::exp(-double{x[i]}));
    // Below 2^-126 floats are subnormal, and 1 / infinity is 0.
    ASSERT_NEAR(got[i], expected, std::max(2.5e-7 * expected, 0x1p-126)) << x[i];
  }
  std::vector<float> extreme = {INFINITY, -INFINITY, 1e30f, -1e30f, 0, -0.f, NAN};
  fast.activate(Activation::sigmoid, extreme.data(), nullptr, extreme.size());
  EXPECT_EQ(std::vector<float>(extreme.begin(), extreme.end() - 1),
            (std::vector<float>{1, 0, 1, 0, 0.5f, 0.5f}));
  EXPECT_TRUE(std::isnan(extreme.back()));
}

TEST_P(KernelsTest, ElementWiseKernelsMatchScalar) {
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
    for (const Activation kind : {Activation::silu, Activation::gelu_tanh, Activation::gelu,
                                  Activation::relu, Activation::sigmoid}) {
      for (const float* up : {static_cast<const float*>(nullptr), y.data()}) {
        scalar_kernels.activate(kind, expected.data(), up, n);
        fast.activate(kind, got.data(), up, n);
        compare("activate");
      }
    }
    for (const float factor : {1.f, 0.22f}) {
      scalar_kernels.add(expected.data(), y.data(), factor, n);
      fast.add(got.data(), y.data(), factor, n);
      compare("add");
    }
    for (const float cap : {0.f, 2.5f}) {
      scalar_kernels.scale(expected.data(), 1.7f, cap, n);
      fast.scale(got.data(), 1.7f, cap, n);
      compare("scale");
    }
    const auto bias = random_floats(n, 11);
    scalar_kernels.layer_norm(x.data(), y.data(), bias.data(), n, 1e-5f, expected.data());
    fast.layer_norm(x.data(), y.data(), bias.data(), n, 1e-5f, got.data());
    compare("layer_norm");
    scalar_kernels.rms_norm(x.data(), y.data(), n, 1e-5f, expected.data());
    fast.rms_norm(x.data(), y.data(), n, 1e-5f, got.data());
    compare("rms_norm");
  }
}

TEST_P(KernelsTest, RmsNormSquaresTheLargestFloats) {
  const std::vector<float> x = {3e38f, -3e38f, 3e38f};
  const std::vector<float> weight = {1, 2, 3};
  std::vector<float> out(3);
  fast.rms_norm(x.data(), weight.data(), 3, 1e-5f, out.data());
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(std::fabs(out[i]), weight[i], 1e-5f);
}

TEST_P(KernelsTest, RopeMatchesScalar) {
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

TEST(BestKernels, AreTheFastestUnlessNamed) {
  const Kernels* const fastest = supported_kernels().front();
  {
    const test::Variable unset("VGA_CPU", "");
    EXPECT_EQ(&best_kernels(), fastest);
  }
  {
    const test::Variable named("VGA_CPU", "scalar");
    EXPECT_EQ(&best_kernels(), &scalar_kernels);
  }
  const test::Variable unknown("VGA_CPU", "AVX2");
  EXPECT_THROW(best_kernels(), Error);
}

INSTANTIATE_TEST_SUITE_P(Tables, KernelsTest,
                         testing::ValuesIn(supported_kernels().begin(),
                                           supported_kernels().end() - 1),
                         [](const auto& table) { return std::string(table.param->name); });
// A CPU may have nothing but the scalar table.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(KernelsTest);

}  // namespace
}  // namespace vga::cpu
