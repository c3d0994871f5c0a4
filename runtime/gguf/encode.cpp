#include "gguf/encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "gguf/blocks.h"
#include "gguf/encode_k.h"

namespace vga {
namespace {

/// The integer part of `x` >= 0, at most `max`; `max` for NaN, which a range beyond f32 leads to.
uint8_t level(float x, int max) {
  return static_cast<uint8_t>(x < static_cast<float>(max) ? x : static_cast<float>(max));
}

/// The first of the elements with the largest magnitude.
float peak(const float* x, size_t n) {
  return *std::max_element(x, x + n, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
}

void encode_block(const float* x, BlockQ8_0& b) {
  const float d = std::fabs(peak(x, 32)) / 127;
  const float inverse = reciprocal(d);
  b.d = f16_from_f32(d);
  for (size_t i = 0; i < 32; ++i) {
    b.q[i] = static_cast<int8_t>(std::clamp(std::round(x[i] * inverse), -127.f, 127.f));
  }
}

template <size_t bits, class Block>
void store_levels(const uint8_t (&levels)[32], Block& b) {
  for (size_t i = 0; i < 16; ++i) {
    b.q[i] = static_cast<uint8_t>((levels[i] & 15) | levels[i + 16] << 4);
  }
  if constexpr (bits == 5) {
    for (size_t i = 0; i < 32; ++i) {
      b.high[i / 8] = static_cast<uint8_t>(b.high[i / 8] | levels[i] >> 4 << (i % 8));
    }
  }
}

/// x = d * (level - half). The peak, whatever its sign, becomes level 0: the one that has no
/// counterpart of the opposite sign.
template <size_t bits, class Block>
void encode_symmetric(const float* x, Block& b) {
  constexpr int half = 1 << (bits - 1);
  const float d = peak(x, 32) / -half;
  const float inverse = reciprocal(d);
  uint8_t levels[32];
  for (size_t i = 0; i < 32; ++i) levels[i] = level(x[i] * inverse + (half + 0.5f), 2 * half - 1);
  b.d = f16_from_f32(d);
  store_levels<bits>(levels, b);
}

/// x = d * level + m, from the least element to the largest.
template <size_t bits, class Block>
void encode_range(const float* x, Block& b) {
  constexpr int max_level = (1 << bits) - 1;
  const auto [min, max] = std::minmax_element(x, x + 32);
  const float d = (*max - *min) / max_level;
  const float inverse = reciprocal(d);
  uint8_t levels[32];
  for (size_t i = 0; i < 32; ++i) levels[i] = level((x[i] - *min) * inverse + 0.5f, max_level);
  b.d = f16_from_f32(d);
  b.m = f16_from_f32(*min);
  store_levels<bits>(levels, b);
}

void encode_block(const float* x, BlockQ4_0& b) {
  encode_symmetric<4>(x, b);
}
void encode_block(const float* x, BlockQ4_1& b) {
  encode_range<4>(x, b);
}
void encode_block(const float* x, BlockQ5_0& b) {
  encode_symmetric<5>(x, b);
}
void encode_block(const float* x, BlockQ5_1& b) {
  encode_range<5>(x, b);
}

template <class Block>
void encode_blocks(std::span<const float> in, std::byte* row) {
  for (size_t i = 0; i < in.size(); i += Block::elements, row += sizeof(Block)) {
    Block block{};
    encode_block(&in[i], block);
    std::memcpy(row, &block, sizeof block);
  }
}

}  // namespace

void encode_row(DType type, std::span<const float> in, std::byte* row) {
  switch (type) {
    case DType::f32:
      std::memcpy(row, in.data(), in.size_bytes());
      return;
    case DType::f16:
    case DType::bf16:
      for (size_t i = 0; i < in.size(); ++i) {
        const uint16_t half = type == DType::f16 ? f16_from_f32(in[i]) : bf16_from_f32(in[i]);
        std::memcpy(row + 2 * i, &half, 2);
      }
      return;
    case DType::q8_0:
      return encode_blocks<BlockQ8_0>(in, row);
    case DType::q4_0:
      return encode_blocks<BlockQ4_0>(in, row);
    case DType::q4_1:
      return encode_blocks<BlockQ4_1>(in, row);
    case DType::q5_0:
      return encode_blocks<BlockQ5_0>(in, row);
    case DType::q5_1:
      return encode_blocks<BlockQ5_1>(in, row);
    case DType::q4_k:
      return encode_blocks<BlockQ4_K>(in, row);
    case DType::q5_k:
      return encode_blocks<BlockQ5_K>(in, row);
    case DType::q6_k:
      return encode_blocks<BlockQ6_K>(in, row);
  }
}

}  // namespace vga
