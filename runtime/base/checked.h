#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>

/// Size arithmetic on numbers that come from outside. Every sum and product of such numbers goes
/// through here; nullopt means that it does not fit and the input is refused.
namespace vga {

inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

/// Product of all numbers in `range`; nullopt on overflow. The empty product is 1.
template <class Range>
std::optional<uint64_t> checked_product(const Range& range) {
  uint64_t product = 1;
  for (const uint64_t factor : range) {
    if (__builtin_mul_overflow(product, factor, &product)) return std::nullopt;
  }
  return product;
}

/// `value` rounded up to a multiple of `alignment` (> 0).
inline std::optional<uint64_t> checked_align(uint64_t value, uint64_t alignment) {
  const auto padded = checked_add(value, alignment - 1);
  if (!padded) return std::nullopt;
  return *padded / alignment * alignment;
}

}  // namespace vga
