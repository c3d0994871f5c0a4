#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "blocks.h"
#include "decode.h"
#include "encode.h"

namespace vga {
namespace {

TEST(BlocksTest, Q8_0StaysWithinHalfAStep) {
  std::mt19937 random(2);
  for (const float size : {1e-3f, 1.f, 1e3f}) {
    std::normal_distribution<float> normal(0, size);
    std::vector<float> in(32 * 50);
    for (float& x : in) x = normal(random);
    std::vector<std::byte> row(row_bytes(DType::q8_0, in.size()));
    encode_row(DType::q8_0, in, row.data());
    std::vector<float> out(in.size());
    decode_row(DType::q8_0, row.data(), out);
    for (size_t block = 0; block < in.size(); block += 32) {
      float max = 0;
      for (size_t i = block; i < block + 32; ++i) max = std::max(max, std::fabs(in[i]));
      const float step = max / 127;
      for (size_t i = block; i < block + 32; ++i) {
        // Half a step, and what rounding the scale to f16 (11 bits, or subnormal) takes from x.
        const float scale_error = std::fabs(in[i]) * 0x1p-11f + 127 * 0x1p-25f;
        ASSERT_NEAR(out[i], in[i], step / 2 * 1.001f + scale_error) << size;
      }
    }
  }
}

TEST(BlocksTest, Q8_0EncodesZeros) {
  const std::vector<float> zeros(32, 0);
  std::vector<std::byte> row(row_bytes(DType::q8_0, 32));
  encode_row(DType::q8_0, zeros, row.data());
  std::vector<float> out(32, 1);
  decode_row(DType::q8_0, row.data(), out);
  EXPECT_EQ(out, zeros);
}

TEST(BlocksTest, Q8_0LiesAsInTheFile) {
  std::vector<float> in(32, 0);
  in[0] = 127;
  in[1] = -63.5f;  // half away from zero
  in[31] = -127;
  std::vector<std::byte> row(row_bytes(DType::q8_0, 32));
  encode_row(DType::q8_0, in, row.data());
  BlockQ8_0 block;
  std::memcpy(&block, row.data(), sizeof block);
  EXPECT_EQ(block.d, 0x3C00);  // 1
  EXPECT_EQ(block.q[0], 127);
  EXPECT_EQ(block.q[1], -64);
  EXPECT_EQ(block.q[31], -127);
}

TEST(BlocksTest, PlainRowsRoundTripUnaligned) {
  const std::vector<float> in = {0, 1, -2.5f, 1024, 0.125f, -0.75f, 3};
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    std::vector<std::byte> row(1 + row_bytes(type, in.size()));
    encode_row(type, in, row.data() + 1);
    std::vector<float> out(in.size());
    decode_row(type, row.data() + 1, out);
    EXPECT_EQ(out, in) << name(type);
  }
}

}  // namespace
}  // namespace vga
