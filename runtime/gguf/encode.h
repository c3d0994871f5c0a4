#pragma once

#include <cstddef>
#include <span>

#include "vga/dtype.h"

namespace vga {

/// Encodes `in`, finite numbers, at `row`, row_bytes(type, in.size()) long. q8_0 and q4_0 to q5_1
/// get the bytes that ggml's reference gives them: the scale is the largest magnitude (or the
/// range) over the number of levels, in f32, and every element goes to the nearest level.
void encode_row(DType type, std::span<const float> in, std::byte* row);

}  // namespace vga
