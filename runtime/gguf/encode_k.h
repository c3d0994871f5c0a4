#pragma once

#include <cmath>

#include "gguf/blocks.h"

namespace vga {

/// 1 / scale; 0 where the scale is too small to divide by.
inline float reciprocal(float scale) {
  const float inverse = 1 / scale;
  return std::isfinite(inverse) ? inverse : 0;
}

/// Encode the 256 elements at `x` into a block of zeros. Scales and minimums are searched for, to
/// make the squared error small.
void encode_block(const float* x, BlockQ4_K& block);
void encode_block(const float* x, BlockQ5_K& block);
void encode_block(const float* x, BlockQ6_K& block);

}  // namespace vga
