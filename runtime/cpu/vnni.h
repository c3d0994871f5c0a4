#pragma once

#include "cpu/vector.h"

namespace vga::cpu {

/// Products of bytes for a vector type V whose instructions add four of them to a 32-bit word:
///
///   zero_words, shift_words_left, broadcast     of 32-bit words
///   add_byte_products(sum, q, x)                sum + the products of four uint8 and four int8
template <class V>
struct Vnni {
  static constexpr size_t x_parts(unsigned) { return 1; }

  /// out[p][t] = sum of (q - zero) * x over `n` steps of group(p) from `begin` on; x is (T, 32)
  /// int8, and the negative sums of those n steps' activations (T) int32.
  template <class Group, size_t begin, size_t n, size_t P, size_t T, class F, class Ints>
  [[gnu::always_inline]] static void dot(const F& group, const std::byte* x,
                                         const std::byte* negative_sums, Ints (&out)[P][T]) {
    for (size_t t = 0; t < T; ++t) {
      Ints first = V::zero_words();
      if (Group::zero > 0) {
        first =
            V::template shift_words_left<log2(Group::zero)>(V::broadcast(negative_sums + 4 * t));
      }
      for (size_t p = 0; p < P; ++p) out[p][t] = first;
    }
    unrolled<n>([&](auto i) __attribute__((always_inline)) {
      constexpr size_t step = begin + i;
      Ints q[P];
      for (size_t p = 0; p < P; ++p) q[p] = group(p).template step<step>();
      for (size_t t = 0; t < T; ++t) {
        const Ints xs = V::broadcast(x + 32 * t + 4 * step);
        for (size_t p = 0; p < P; ++p) out[p][t] = V::add_byte_products(out[p][t], q[p], xs);
      }
    });
  }

  /// The sum of a group and the negative sums of all 32, the first and the last 16, given the sum
  /// of each half; its q is as dot() takes it.
  template <size_t parts>
  static uint32_t finish_group(std::byte*, size_t, const uint32_t (&sums)[2],
                               uint32_t (&negative)[3]) {
    const uint32_t sum = sums[0] + sums[1];
    negative[0] = -sum;
    negative[1] = -sums[0];
    negative[2] = -sums[1];
    return sum;
  }
};

}  // namespace vga::cpu
