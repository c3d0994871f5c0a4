#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

#include "gguf/blocks.h"
#include "gguf/encode.h"
#include "vga/dtype.h"

namespace vga::test {

inline std::vector<float> random_floats(size_t n, uint32_t seed, float size = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> gauss(0, size);
  std::vector<float> values(n);
  for (float& value : values) value = gauss(random);
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

  /// Blocks of arbitrary bits, or of the given byte, with scales that keep elements below 2: all
  /// that a format can say, not only what our encoder writes.
  static Encoded bits(DType type, size_t n_rows, size_t cols, int byte = -1) {
    Encoded e;
    std::mt19937 random(static_cast<uint32_t>(n_rows * cols));
    e.bytes_.resize(1 + n_rows * row_bytes(type, cols));
    for (std::byte& b : e.bytes_) b = static_cast<std::byte>(byte < 0 ? random() : byte);
    const bool super = block_elements(type) == 256;
    for (size_t at = 1; at < e.bytes_.size(); at += block_bytes(type)) {
      const uint16_t d = f16_from_f32(type == DType::q8_0 ? 0x1p-7f : super ? 0x1p-11f : 0x1p-4f);
      const size_t first = type == DType::q6_k ? offsetof(BlockQ6_K, d) : 0;
      const bool two =
          type == DType::q4_1 || type == DType::q5_1 || type == DType::q4_k || type == DType::q5_k;
      std::memcpy(&e.bytes_[at + first], &d, 2);
      if (two) std::memcpy(&e.bytes_[at + 2], &d, 2);
    }
    return e;
  }

 private:
  Encoded() = default;
  std::vector<std::byte> bytes_;
};

inline constexpr DType all_types[] = {DType::f32,  DType::f16,  DType::bf16, DType::q8_0,
                                      DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1,
                                      DType::q4_k, DType::q5_k, DType::q6_k};

inline size_t whole_blocks(DType type, size_t cols) {
  const size_t block = block_elements(type);
  return (cols + block - 1) / block * block;
}

/// Values that q8_0 keeps as they are, so that rounding cannot hide a mistake: with a 127 in each
/// block of 32, d is 1.
inline std::vector<float> small_integers(size_t n, uint32_t seed) {
  std::vector<float> values = random_floats(n, seed, 40);
  for (size_t i = 0; i < n; ++i) {
    values[i] = i % 32 == 5 ? 127 : std::round(std::clamp(values[i], -127.f, 127.f));
  }
  return values;
}

}  // namespace vga::test
