#pragma once

#include <cstddef>
#include <span>

#include "vga/dtype.h"

namespace vga {

/// Decodes the row at `row` into `out`; out.size() is a multiple of block_elements(type). Bit for
/// bit what the gguf Python package computes; the formulas are in blocks.h.
void decode_row(DType type, const std::byte* row, std::span<float> out);

}  // namespace vga
