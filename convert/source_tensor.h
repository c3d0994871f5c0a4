#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vga/dtype.h"

namespace vga {

/// A weight as a checkpoint stores it: a view into the mapped file. The reader that made it has
/// checked that every element lies inside the file.
struct SourceTensor {
  std::string type_name;            // as the file spells it: "F16", "LongStorage"
  std::optional<DType> type;        // f32, f16 or bf16; nullopt for types weights do not come in
  std::vector<uint64_t> shape;      // outermost dimension first
  std::vector<uint64_t> strides;    // in elements, one per dimension
  const std::byte* data = nullptr;  // the first element

  /// Row `row` of a matrix or of matrices that follow each other, or a whole vector (row 0), as
  /// float32; out.size() is the last dimension. Needs a type and one to three dimensions.
  void read_row(size_t row, std::span<float> out) const;
};

/// By name, in the checkpoint's own naming.
using SourceTensors = std::map<std::string, SourceTensor, std::less<>>;

/// Strides of a tensor without gaps, last dimension fastest.
std::vector<uint64_t> contiguous_strides(std::span<const uint64_t> shape);

/// More tensors than any model that the runtime can hold: Qwen3-Next has 512 experts in 48 layers.
constexpr size_t max_source_tensors = 1 << 18;

}  // namespace vga
