#pragma once

#include <cstddef>
#include <cstring>
#include <utility>

/// The kernels are written once over a vector type V that an instruction set's own file defines:
///
///   lanes                  floats in a vector, which is also the rows of a panel
///   float_tile             tokens that a product takes at once
///   float_sums             vectors of sums that registers hold
///   Floats, Ints           a vector of floats; of lanes 32-bit words or four times as many bytes
///   load, store, load_part, store_part, set1, load_f16, load_bf16, load_s8, ...
///   dot<Group, first, n>   n steps of a group of quantized weights, with as many activations
///   finish_group<parts>    activations as dot() takes them
///
/// V, and so every function over it, has internal linkage, and so has what is here: the linker
/// keeps one copy of a function that has not, and if that were one compiled for AVX-512, every
/// other CPU would crash in it. For the same reason nothing inline from elsewhere is called.
namespace vga::cpu {
namespace {

/// Calls f with 0, 1, ... n - 1 as compile-time constants.
template <size_t n, class F>
[[gnu::always_inline]] inline void unrolled(F&& f) {
  [&]<size_t... i>(std::index_sequence<i...>) {
    (f(std::integral_constant<size_t, i>()), ...);
  }
  (std::make_index_sequence<n>());
}

consteval unsigned log2(unsigned power) {
  return power > 1 ? 1 + log2(power / 2) : 0;
}

constexpr size_t smaller(size_t a, size_t b) {
  return a < b ? a : b;
}
constexpr size_t round_up(size_t n, size_t to) {
  return (n + to - 1) / to * to;
}

/// Columns of a group of quantized weights, or of activations, which one d scales.
constexpr size_t group_cols = 32;

template <class T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

}  // namespace
}  // namespace vga::cpu
