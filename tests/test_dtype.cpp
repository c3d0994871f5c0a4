#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "vga/dtype.h"

namespace vga {
namespace {

/// Floats of every size, also subnormals, infinities and NaN.
std::vector<float> random_bits(size_t n) {
  std::mt19937 random(1);
  std::vector<float> values(n);
  for (float& value : values) value = std::bit_cast<float>(static_cast<uint32_t>(random()));
  return values;
}

/// The value of the bits by the definition of the format.
double f16_value(uint16_t h) {
  const double sign = (h & 0x8000) != 0 ? -1 : 1;
  const int exponent = h >> 10 & 0x1F;
  const int mantissa = h & 0x3FF;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

/// The nearest of all finite f16, ties to the even one; what lies beyond them is infinity.
uint16_t nearest_f16(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::fabs(double{x});
  if (magnitude >= 65520) return sign | 0x7C00;
  uint16_t below = 0;  // the largest that is not above; positive f16 are ordered as their bits
  for (uint16_t bit = 0x4000; bit != 0; bit >>= 1) {
    const auto candidate = static_cast<uint16_t>(below | bit);
    if (candidate < 0x7C00 && f16_value(candidate) <= magnitude) below = candidate;
  }
  const auto above = static_cast<uint16_t>(below + 1);
  const double next = above == 0x7C00 ? 65536 : f16_value(above);
  const double down = magnitude - f16_value(below);
  const double up = next - magnitude;
  return sign | (down < up || (down == up && below % 2 == 0) ? below : above);
}

TEST(DTypeTest, EveryF16RoundTrips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto h = static_cast<uint16_t>(bits);
    const float x = f32_from_f16(h);
    if ((h & 0x7C00) == 0x7C00) {
      ASSERT_EQ(std::isnan(x), (h & 0x3FF) != 0) << bits;
      if (std::isnan(x)) {
        ASSERT_TRUE(std::isnan(f32_from_f16(f16_from_f32(x)))) << bits;
        continue;
      }
      ASSERT_EQ(x, (h & 0x8000) != 0 ? -INFINITY : INFINITY);
    } else {
      ASSERT_EQ(x, f16_value(h)) << bits;
    }
    ASSERT_EQ(f16_from_f32(x), h) << bits;
  }
}

TEST(DTypeTest, F16RoundsToNearestEven) {
  for (const float x : random_bits(200000)) {
    if (std::isnan(x)) continue;
    ASSERT_EQ(f16_from_f32(x), nearest_f16(x)) << x;
  }
  // Every tie between neighbours, and what lies just beside it.
  for (uint16_t h = 0; h < 0x7C00; ++h) {
    const double next = h + 1 == 0x7C00 ? 65536 : f16_value(static_cast<uint16_t>(h + 1));
    const auto tie = static_cast<float>((f16_value(h) + next) / 2);
    for (const float x : {tie, std::nextafter(tie, 0.f), std::nextafter(tie, INFINITY), -tie}) {
      ASSERT_EQ(f16_from_f32(x), nearest_f16(x)) << x;
    }
  }
}

TEST(DTypeTest, EveryBf16RoundTrips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto h = static_cast<uint16_t>(bits);
    const float x = f32_from_bf16(h);
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(f32_from_bf16(bf16_from_f32(x)))) << bits;
    } else {
      ASSERT_EQ(bf16_from_f32(x), h) << bits;
    }
  }
}

TEST(DTypeTest, Bf16RoundsToNearestEven) {
  for (const float x : random_bits(200000)) {
    const float rounded = f32_from_bf16(bf16_from_f32(x));
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(rounded));
      continue;
    }
    const auto down = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);  // towards zero
    const double below = double{f32_from_bf16(down)};
    const double above = double{f32_from_bf16(static_cast<uint16_t>(down + 1))};
    if (std::isinf(below) || std::isinf(above)) continue;
    const double error = std::fabs(double{rounded} - double{x});
    ASSERT_EQ(error, std::min(std::fabs(below - double{x}), std::fabs(above - double{x}))) << x;
  }
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x3F808000u)), 0x3F80);  // ties to even
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x3F818000u)), 0x3F82);
  EXPECT_EQ(bf16_from_f32(std::numeric_limits<float>::max()), 0x7F80);  // rounds to infinity
}

constexpr DType all_types[] = {DType::f32,  DType::f16,  DType::bf16, DType::q8_0,
                               DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1,
                               DType::q4_k, DType::q5_k, DType::q6_k};

TEST(DTypeTest, NamesAndIds) {
  for (const DType type : all_types) {
    EXPECT_EQ(dtype_from_name(name(type)), type);
    EXPECT_EQ(dtype_from_gguf(static_cast<uint32_t>(type)), type);
  }
  EXPECT_EQ(dtype_from_name("q2_k"), std::nullopt);
  EXPECT_EQ(dtype_from_gguf(10), std::nullopt);
  EXPECT_EQ(gguf_type_name(12), "Q4_K");
  EXPECT_EQ(gguf_type_name(99), "unknown type 99");
  EXPECT_EQ(row_bytes(DType::q8_0, 64), 68u);
  EXPECT_EQ(row_bytes(DType::bf16, 3), 6u);
  EXPECT_EQ(row_bytes(DType::q6_k, 512), 420u);
  EXPECT_EQ(dtype_names(), "f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k");
}

}  // namespace
}  // namespace vga
