#include "gguf/decode.h"

#include <cstring>

#include "base/load.h"
#include "gguf/blocks.h"

namespace vga {
namespace {

void decode(const BlockQ8_0& b, float* out) {
  const float d = f32_from_f16(b.d);
  for (size_t i = 0; i < 32; ++i) out[i] = d * b.q[i];
}

void decode(const BlockQ4_0& b, float* out) {
  const float d = f32_from_f16(b.d);
  for (size_t i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((b.q[i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((b.q[i] >> 4) - 8);
  }
}

void decode(const BlockQ4_1& b, float* out) {
  const float d = f32_from_f16(b.d);
  const float m = f32_from_f16(b.m);
  for (size_t i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(b.q[i] & 15) + m;
    out[i + 16] = d * static_cast<float>(b.q[i] >> 4) + m;
  }
}

/// q_i of a block of 32 with a fifth bit.
template <class Block>
int five_bits(const Block& b, size_t i) {
  const int low = b.q[i % 16] >> (i / 16 * 4) & 15;
  const int high = b.high[i / 8] >> (i % 8) & 1;
  return low | high << 4;
}

void decode(const BlockQ5_0& b, float* out) {
  const float d = f32_from_f16(b.d);
  for (size_t i = 0; i < 32; ++i) out[i] = d * static_cast<float>(five_bits(b, i) - 16);
}

void decode(const BlockQ5_1& b, float* out) {
  const float d = f32_from_f16(b.d);
  const float m = f32_from_f16(b.m);
  for (size_t i = 0; i < 32; ++i) out[i] = d * static_cast<float>(five_bits(b, i)) + m;
}

/// The six-bit numbers of group `g`, times d and dmin.
struct ScaleAndMin {
  float scale;
  float min;
};
template <class Block>
ScaleAndMin scale_and_min(const Block& b, size_t g) {
  const size_t j = g % 4;
  int scale = b.scales[j] & 63;
  int min = b.scales[4 + j] & 63;
  if (g >= 4) {
    scale = (b.scales[8 + j] & 15) | b.scales[j] >> 6 << 4;
    min = b.scales[8 + j] >> 4 | b.scales[4 + j] >> 6 << 4;
  }
  return {f32_from_f16(b.d) * static_cast<float>(scale),
          f32_from_f16(b.dmin) * static_cast<float>(min)};
}

void decode(const BlockQ4_K& b, float* out) {
  for (size_t g = 0; g < 8; ++g, out += 32) {
    const auto [scale, min] = scale_and_min(b, g);
    const uint8_t* q = b.q + g / 2 * 32;
    const size_t shift = g % 2 * 4;
    for (size_t i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(q[i] >> shift & 15) - min;
  }
}

void decode(const BlockQ5_K& b, float* out) {
  for (size_t g = 0; g < 8; ++g, out += 32) {
    const auto [scale, min] = scale_and_min(b, g);
    const uint8_t* low = b.q + g / 2 * 32;
    const size_t shift = g % 2 * 4;
    for (size_t i = 0; i < 32; ++i) {
      const int q = (low[i] >> shift & 15) | (b.high[i] >> g & 1) << 4;
      out[i] = scale * static_cast<float>(q) - min;
    }
  }
}

void decode(const BlockQ6_K& b, float* out) {
  const float d = f32_from_f16(b.d);
  for (size_t g = 0; g < 16; ++g, out += 16) {
    const float scale = d * b.scale[g];
    const size_t half = g / 8;
    const size_t quarter = g / 2 % 4;
    const uint8_t* low = b.low + half * 64 + quarter % 2 * 32 + g % 2 * 16;
    const uint8_t* high = b.high + half * 32 + g % 2 * 16;
    for (size_t i = 0; i < 16; ++i) {
      const int q = (low[i] >> (quarter / 2 * 4) & 15) | (high[i] >> (quarter * 2) & 3) << 4;
      out[i] = scale * static_cast<float>(q - 32);
    }
  }
}

template <class Block>
void decode_blocks(const std::byte* row, std::span<float> out) {
  for (size_t i = 0; i < out.size(); i += Block::elements, row += sizeof(Block)) {
    decode(load<Block>(row), &out[i]);
  }
}

}  // namespace

void decode_row(DType type, const std::byte* row, std::span<float> out) {
  switch (type) {
    case DType::f32:
      std::memcpy(out.data(), row, out.size_bytes());
      return;
    case DType::f16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = f32_from_f16(load<uint16_t>(row + 2 * i));
      return;
    case DType::bf16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = f32_from_bf16(load<uint16_t>(row + 2 * i));
      return;
    case DType::q8_0:
      return decode_blocks<BlockQ8_0>(row, out);
    case DType::q4_0:
      return decode_blocks<BlockQ4_0>(row, out);
    case DType::q4_1:
      return decode_blocks<BlockQ4_1>(row, out);
    case DType::q5_0:
      return decode_blocks<BlockQ5_0>(row, out);
    case DType::q5_1:
      return decode_blocks<BlockQ5_1>(row, out);
    case DType::q4_k:
      return decode_blocks<BlockQ4_K>(row, out);
    case DType::q5_k:
      return decode_blocks<BlockQ5_K>(row, out);
    case DType::q6_k:
      return decode_blocks<BlockQ6_K>(row, out);
  }
}

}  // namespace vga
