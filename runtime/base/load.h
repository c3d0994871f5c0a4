#pragma once

#include <cstddef>
#include <cstring>

namespace vga {

/// The number that stands at `from`, which need not be aligned.
template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

}  // namespace vga
