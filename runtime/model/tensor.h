#pragma once

#include <cstddef>
#include <cstdint>

#include "vga/dtype.h"

namespace vga {

namespace vulkan {
struct Weight;
}

/// A view of a weight, shape already checked: (rows, cols). A vector has one row. Multiplying by it
/// maps `cols` inputs to `rows` outputs.
struct Tensor {
  DType type = DType::f32;
  size_t rows = 0;
  size_t cols = 0;
  const std::byte* data = nullptr;  // row by row as in the file, or in panels: cpu/panels.h
  /// What its backend computes with instead of `data`; null if that is the CPU.
  const vulkan::Weight* on_device = nullptr;

  explicit operator bool() const { return data != nullptr; }
  const std::byte* row(size_t r) const { return data + r * row_bytes(type, cols); }
  size_t bytes() const { return rows * row_bytes(type, cols); }
};

}  // namespace vga
