#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "names.h"
#include "source_tensor.h"
#include "vga/config.h"

namespace vga {

/// A tensor of a checkpoint as the GGUF file wants it, row by row.
class TransformedTensor {
 public:
  /// A tensor that has not the dimensions for its transformation keeps a shape that no model wants.
  TransformedTensor(SourceTensor source, Transform transform, const Config& config);

  const SourceTensor& source() const { return source_; }  // with the shape that will be written

  /// Row `row` of a matrix, or a whole vector (row 0).
  void read_row(size_t row, std::span<float> out) const;

 private:
  /// Where row `i` of what is written, or element `i` of a vector, stands in the source.
  size_t source_row(size_t i) const;
  /// The same of `n` rows, elements or columns, of which the last ones are value heads.
  size_t source_of_values(size_t i, size_t n) const;

  SourceTensor source_;
  Transform transform_;
  size_t head_dim_;
  size_t n_heads_;
  DeltaNet delta_;
};

}  // namespace vga
