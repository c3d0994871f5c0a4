#pragma once

#include <cstddef>
#include <cstdint>

/// The blocks of the quantized types as they lie in a file: little-endian, packed, unaligned.
/// Scales are f16. Where a byte holds two numbers, the one named first is in the low bits. Elements
/// are decoded in f32: every product of the formulas is exact there, only adding a minimum rounds.
namespace vga {

/// 8.5 bits an element: x_i = d * q[i].
struct BlockQ8_0 {
  static constexpr size_t elements = 32;
  uint16_t d;
  int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

/// 4.5 bits: x_i = d * (q_i - 8). q[i] holds q_i and q_(i+16).
struct BlockQ4_0 {
  static constexpr size_t elements = 32;
  uint16_t d;
  uint8_t q[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

/// 5 bits: x_i = d * q_i + m. q[i] holds q_i and q_(i+16).
struct BlockQ4_1 {
  static constexpr size_t elements = 32;
  uint16_t d;
  uint16_t m;
  uint8_t q[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

/// 5.5 bits: x_i = d * (q_i - 16). q[i] holds the low four bits of q_i and of q_(i+16); bit i of
/// `high`, counted from the lowest bit of its first byte, is the fifth bit of q_i.
struct BlockQ5_0 {
  static constexpr size_t elements = 32;
  uint16_t d;
  uint8_t high[4];
  uint8_t q[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

/// 6 bits: x_i = d * q_i + m, q_i stored as in q5_0.
struct BlockQ5_1 {
  static constexpr size_t elements = 32;
  uint16_t d;
  uint16_t m;
  uint8_t high[4];
  uint8_t q[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

/// 4.5 bits: 8 groups of 32 elements, element i of group g is (d * scale_g) * q - dmin * min_g.
/// q[32 * p + i] holds element i of group 2p and of group 2p + 1. Scales and minimums have six
/// bits:
///   scales[j],     j < 4: scale_j, then the upper two bits of scale_(4+j)
///   scales[4 + j], j < 4: min_j, then the upper two bits of min_(4+j)
///   scales[8 + j], j < 4: the low four bits of scale_(4+j) and of min_(4+j)
struct BlockQ4_K {
  static constexpr size_t elements = 256;
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t q[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

/// 5.5 bits: as q4_k, with a fifth bit of q: bit g of high[i] belongs to element i of group g.
struct BlockQ5_K {
  static constexpr size_t elements = 256;
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t high[32];
  uint8_t q[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

/// 6.5625 bits: 16 groups of 16 elements, an element of group g is (d * scale[g]) * (q - 32).
/// The block is two halves of four quarters of 32 elements. Of half h, low[64 * h + 32 * p + i]
/// holds the low four bits of element i of the quarters p and p + 2, and high[32 * h + i] the upper
/// two bits of element i of the quarters 0, 1, 2, 3.
struct BlockQ6_K {
  static constexpr size_t elements = 256;
  uint8_t low[128];
  uint8_t high[64];
  int8_t scale[16];
  uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210);

}  // namespace vga
