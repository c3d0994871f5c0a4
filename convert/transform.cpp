#include "transform.h"

#include <algorithm>
#include <vector>

namespace vga {
namespace {

/// How many rows of learned positions OPT has in front of the first one.
constexpr size_t skipped_positions = 2;

SourceTensor transposed(SourceTensor tensor) {
  if (tensor.shape.size() != 2) return tensor;
  std::swap(tensor.shape[0], tensor.shape[1]);
  std::swap(tensor.strides[0], tensor.strides[1]);
  return tensor;
}

SourceTensor without_first_rows(SourceTensor tensor, size_t n) {
  if (tensor.shape.size() != 2 || tensor.shape[0] < n || !tensor.type) return tensor;
  tensor.shape[0] -= n;
  tensor.data += n * tensor.strides[0] * row_bytes(*tensor.type, 1);
  return tensor;
}

}  // namespace

TransformedTensor::TransformedTensor(SourceTensor source, Transform transform, const Config& config)
    : source_(std::move(source)),
      transform_(transform),
      head_dim_(config.head_dim),
      n_heads_(config.n_heads) {
  if (transform == Transform::transposed) source_ = transposed(std::move(source_));
  if (transform == Transform::from_third_row) {
    source_ = without_first_rows(std::move(source_), skipped_positions);
  }
}

size_t TransformedTensor::source_row(size_t i) const {
  const size_t in_head = i % head_dim_;
  switch (transform_) {
    case Transform::rotated:
      // Rows 2i and 2i + 1 of an adjacent-pair head are i and i + head_dim / 2 of a half-split one.
      return i - in_head + in_head / 2 + in_head % 2 * (head_dim_ / 2);
    case Transform::heads_together: {
      const size_t head = i / head_dim_ % n_heads_;
      const size_t part = i / head_dim_ / n_heads_;  // q, k, v
      return (head * 3 + part) * head_dim_ + in_head;
    }
    default:
      return i;
  }
}

void TransformedTensor::read_row(size_t row, std::span<float> out) const {
  const bool reorders = transform_ == Transform::rotated || transform_ == Transform::heads_together;
  if (source_.shape.size() == 2 || !reorders) {
    source_.read_row(source_row(row), out);
  } else {
    std::vector<float> vector(out.size());  // a bias
    source_.read_row(0, vector);
    for (size_t i = 0; i < out.size(); ++i) out[i] = vector[source_row(i)];
  }
  if (transform_ != Transform::plus_one) return;
  for (float& x : out) x += 1;
}

}  // namespace vga
