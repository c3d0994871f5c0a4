#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

#include "vga/dtype.h"

namespace vga {

namespace vulkan {
struct Weight;
}

/// How a weight lies in memory: row by row as in the file, or in panels (cpu/panels.h).
enum class Layout : uint8_t { rows, panels };

/// A view of a weight, shape already checked: (rows, cols). A vector has one row. Multiplying by it
/// maps `cols` inputs to `rows` outputs.
struct Tensor {
  DType type = DType::f32;
  size_t rows = 0;
  size_t cols = 0;
  const std::byte* data = nullptr;
  Layout layout = Layout::rows;
  /// Two weights may take turns in a tensor of the file: after as many rows of the one come as many
  /// of the other. 0: its rows follow each other.
  size_t turn = 0;
  /// What its backend computes with instead of `data`; null if that is the CPU.
  const vulkan::Weight* on_device = nullptr;

  explicit operator bool() const { return data != nullptr; }
  const std::byte* row(size_t r) const {
    assert(layout == Layout::rows);
    const size_t others = turn > 0 ? r / turn * turn : 0;
    return data + (r + others) * row_bytes(type, cols);
  }
  /// Rows [first, first + n).
  Tensor part(size_t first, size_t n) const {
    assert(turn == 0);
    return {.type = type, .rows = n, .cols = cols, .data = row(first), .layout = layout};
  }
  size_t bytes() const { return rows * row_bytes(type, cols); }
};

/// What adapters add to a linear layer: b a x.
struct LowRank {
  Tensor a;  // (rank, inputs)
  Tensor b;  // (outputs, rank), with what it is scaled by

  explicit operator bool() const { return static_cast<bool>(a); }
};

/// A linear layer: maps x to weight x + bias. The bias is empty where there is none, and so is what
/// adapters add to the product.
struct Linear {
  Tensor weight;  // (outputs, inputs)
  Tensor bias;    // (outputs)
  LowRank change;
};

/// What a normalised vector is multiplied by, and what is added to it if that is not empty.
struct Norm {
  Tensor weight;
  Tensor bias;
};

}  // namespace vga
