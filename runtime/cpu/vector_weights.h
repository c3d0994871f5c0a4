#pragma once

#include "cpu/panels.h"
#include "cpu/vector.h"
#include "gguf/blocks.h"

namespace vga::cpu {

/// How panels of each type are read (panels.h has their layout) as vectors V. Plain types give a
/// column at a time, quantized ones steps of a group of 32 columns, and what those are scaled by.
template <class V>
struct VectorWeights {
  using Floats = typename V::Floats;
  using Ints = typename V::Ints;
  static constexpr size_t lanes = V::lanes;
  static constexpr size_t plain_rows = plain_panel_vectors * lanes;  // of a panel of plain numbers
  static constexpr size_t step_bytes = lanes * 4;

  struct F32 {
    static constexpr size_t column_bytes = lanes * 4;
    static Floats load(const std::byte* from) {
      return V::load(reinterpret_cast<const float*>(from));
    }
  };
  struct F16 {
    static constexpr size_t column_bytes = lanes * 2;
    static Floats load(const std::byte* from) { return V::load_f16(from); }
  };
  struct BF16 {
    static constexpr size_t column_bytes = lanes * 2;
    static Floats load(const std::byte* from) { return V::load_bf16(from); }
  };

  /// Values of a cache in q8_0; their scales are in the weights that they are multiplied by.
  struct S8 {
    static constexpr size_t column_bytes = lanes;
    static Floats load(const std::byte* from) { return V::load_s8(from); }
  };

  /// Step i of nibbles.
  template <size_t i>
  static Ints nibbles(const std::byte* from) {
    const Ints both = V::load_bytes(from + i % 4 * step_bytes);
    if constexpr (i < 4) return V::and_bytes(both, 0x0F);
    return V::and_bytes(V::template shift_right<4>(both), 0x0F);
  }

  /// Step i of nibbles with one more bit.
  template <size_t i>
  static Ints nibbles_and_fifth(const std::byte* fifth, const std::byte* low) {
    const Ints bits = V::load_bytes(fifth);
    Ints moved;
    if constexpr (i < 4) {
      moved = V::template shift_left<4 - i>(bits);
    } else {
      moved = V::template shift_right<i - 4>(bits);
    }
    return V::or_bytes(nibbles<i>(low), V::and_bytes(moved, 0x10));
  }

  // A group of each type: q in steps, to be understood as q - zero, q < 2^bits; the result of its
  // part p is scaled by scale(p), and with has_min a min() times the activations' sum is added.

  struct Q8_0 {
    static constexpr unsigned bits = 8;
    static constexpr unsigned zero = 128;
    static constexpr size_t parts = 1;
    static constexpr bool has_min = false;
    const std::byte* at;
    Q8_0(const std::byte* panel, size_t group) : at(panel + group * bytes) {}
    static constexpr size_t bytes = lanes * sizeof(BlockQ8_0);
    Floats scale(size_t) const { return V::load_f16(at); }
    template <size_t i>
    Ints step() const {
      return V::load_bytes(at + 2 * lanes + i * step_bytes);
    }
  };

  /// q4_0 to q5_1: nibbles, perhaps with a fifth bit; without a zero point they have a minimum.
  template <class Block, unsigned n_bits, unsigned zero_point>
  struct Q45 {
    static constexpr unsigned bits = n_bits;
    static constexpr unsigned zero = zero_point;
    static constexpr size_t parts = 1;
    static constexpr bool has_min = zero_point == 0;
    static constexpr size_t bytes = lanes * sizeof(Block);
    static constexpr size_t header_bytes = (has_min ? 4 : 2) * lanes;
    const std::byte* at;
    Q45(const std::byte* panel, size_t group) : at(panel + group * bytes) {}
    Floats scale(size_t) const { return V::load_f16(at); }
    Floats min() const { return V::load_f16(at + 2 * lanes); }
    template <size_t i>
    Ints step() const {
      const std::byte* q = at + header_bytes;
      if constexpr (bits == 5) {
        return nibbles_and_fifth<i>(q, q + step_bytes);
      } else {
        return nibbles<i>(q);
      }
    }
  };
  using Q4_0 = Q45<BlockQ4_0, 4, 8>;
  using Q4_1 = Q45<BlockQ4_1, 4, 0>;
  using Q5_0 = Q45<BlockQ5_0, 5, 16>;
  using Q5_1 = Q45<BlockQ5_1, 5, 0>;

  /// q4_k and q5_k: groups of a super-block, whose scales and mins are bytes times d and dmin.
  template <size_t fifth_bytes>
  struct Q45_K {
    static constexpr unsigned bits = fifth_bytes > 0 ? 5 : 4;
    static constexpr unsigned zero = 0;
    static constexpr size_t parts = 1;
    static constexpr bool has_min = true;
    static constexpr size_t bytes = 2 * lanes + fifth_bytes + 4 * step_bytes;
    const std::byte* super;
    const std::byte* at;
    Q45_K(const std::byte* panel, size_t group)
        : super(panel + group / 8 * (4 * lanes + 8 * bytes)),
          at(super + 4 * lanes + group % 8 * bytes) {}
    Floats scale(size_t) const { return V::mul(V::load_f16(super), V::load_u8(at)); }
    Floats min() const {
      const Floats dmin = V::load_f16(super + 2 * lanes);
      return V::sub(V::zero(), V::mul(dmin, V::load_u8(at + lanes)));
    }
    template <size_t i>
    Ints step() const {
      if constexpr (fifth_bytes > 0) {
        return nibbles_and_fifth<i>(at + 2 * lanes, at + 2 * lanes + fifth_bytes);
      } else {
        return nibbles<i>(at + 2 * lanes);
      }
    }
  };
  using Q4_K = Q45_K<0>;
  using Q5_K = Q45_K<step_bytes>;

  struct Q6_K {
    static constexpr unsigned bits = 6;
    static constexpr unsigned zero = 32;
    static constexpr size_t parts = 2;  // a scale for each 16 columns
    static constexpr bool has_min = false;
    static constexpr size_t bytes = 2 * lanes + 6 * step_bytes;
    const std::byte* super;
    const std::byte* at;
    Q6_K(const std::byte* panel, size_t group)
        : super(panel + group / 8 * (2 * lanes + 8 * bytes)),
          at(super + 2 * lanes + group % 8 * bytes) {}
    Floats scale(size_t part) const {
      return V::mul(V::load_f16(super), V::load_s8(at + part * lanes));
    }
    template <size_t i>
    Ints step() const {
      const std::byte* upper = at + 2 * lanes;
      const Ints bits_of_four = V::load_bytes(upper + i / 4 * step_bytes);
      Ints moved;
      if constexpr (i % 4 < 2) {
        moved = V::template shift_left<4 - 2 * (i % 4)>(bits_of_four);
      } else {
        moved = V::template shift_right<2 * (i % 4) - 4>(bits_of_four);
      }
      return V::or_bytes(nibbles<i>(upper + 2 * step_bytes), V::and_bytes(moved, 0x30));
    }
  };
};

}  // namespace vga::cpu
