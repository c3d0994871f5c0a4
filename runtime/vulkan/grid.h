#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "vulkan/physical_device.h"

/// Numbers and workgroups as a dispatch takes them.
namespace vga::vulkan {

constexpr uint32_t max_groups = 65535;  // along one axis

inline uint32_t u32(size_t n) {
  return static_cast<uint32_t>(n);
}

/// Workgroups along x, then y.
inline std::array<uint32_t, 3> grid(size_t groups, size_t splits = 1) {
  const size_t y = (groups - 1) / max_groups + 1;
  return {u32((groups - 1) / y + 1), u32(y), u32(splits)};
}

/// As many workgroups as n threads are.
inline std::array<uint32_t, 3> threads(size_t n) {
  return grid((n - 1) / Limits::workgroup_size + 1);
}

}  // namespace vga::vulkan
