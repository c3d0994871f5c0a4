#include "transform.h"

#include <algorithm>
#include <cmath>
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

/// One half of the rows of each expert.
SourceTensor half(SourceTensor tensor, bool second) {
  if (tensor.shape.size() != 3 || tensor.shape[1] % 2 != 0 || !tensor.type) return tensor;
  tensor.shape[1] /= 2;
  if (second) tensor.data += tensor.shape[1] * tensor.strides[1] * row_bytes(*tensor.type, 1);
  return tensor;
}

/// Without the dimension, if that is 1.
SourceTensor squeezed(SourceTensor tensor, size_t n_dims, size_t dim) {
  if (tensor.shape.size() != n_dims || tensor.shape[dim] != 1) return tensor;
  tensor.shape.erase(tensor.shape.begin() + static_cast<std::ptrdiff_t>(dim));
  tensor.strides.erase(tensor.strides.begin() + static_cast<std::ptrdiff_t>(dim));
  return tensor;
}

/// `wanted` rows of the groups of all key heads.
SourceTensor of_groups(SourceTensor tensor, const DeltaNet& net, size_t wanted) {
  if (tensor.shape.size() == 2 && tensor.shape[0] == net.conv_cols() + net.value_size()) {
    tensor.shape[0] = wanted;
  }
  return tensor;
}

/// The tensor in the shape that will be written.
SourceTensor shaped(SourceTensor tensor, Transform transform, const DeltaNet& net) {
  switch (transform) {
    case Transform::transposed:
      return transposed(std::move(tensor));
    case Transform::from_third_row:
      return without_first_rows(std::move(tensor), skipped_positions);
    case Transform::first_half:
    case Transform::second_half:
      return half(std::move(tensor), transform == Transform::second_half);
    case Transform::single_row:
      return squeezed(std::move(tensor), 2, 0);
    case Transform::convolution:
      return squeezed(std::move(tensor), 3, 1);
    case Transform::key_groups:
      return of_groups(std::move(tensor), net, net.conv_cols());
    case Transform::gate_groups:
      return of_groups(std::move(tensor), net, net.value_size());
    default:
      return tensor;
  }
}

}  // namespace

TransformedTensor::TransformedTensor(SourceTensor source, Transform transform, const Config& config)
    : source_(shaped(std::move(source), transform, config.delta)),
      transform_(transform),
      head_dim_(config.head_dim),
      n_heads_(config.n_heads),
      delta_(config.delta) {}

size_t TransformedTensor::source_of_values(size_t i, size_t n) const {
  if (delta_.grouped) return i;
  const size_t per_head = n < delta_.value_size() ? 1 : delta_.head_dim;
  const size_t first = n - delta_.n_value_heads * per_head;
  if (i < first) return i;
  const size_t head = (i - first) / per_head;
  const size_t key_head = head % delta_.n_key_heads;
  const size_t of_key_head = head / delta_.n_key_heads;
  const size_t values_per_key = delta_.n_value_heads / delta_.n_key_heads;
  return first + (key_head * values_per_key + of_key_head) * per_head + (i - first) % per_head;
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
    case Transform::value_heads:
    case Transform::convolution:
    case Transform::negative_exp:
      return source_of_values(i, source_.shape[0]);
    case Transform::key_groups:
    case Transform::gate_groups: {
      const size_t dim = delta_.head_dim;
      const size_t values = delta_.value_size() / delta_.n_key_heads;  // of a key head
      const size_t group = 2 * dim + 2 * values;
      const bool is_gate = transform_ == Transform::gate_groups;
      const size_t value = is_gate ? i : i - 2 * delta_.key_size();
      if (is_gate || i >= 2 * delta_.key_size()) {
        const size_t before = 2 * dim + (is_gate ? values : 0);
        return value / values * group + before + value % values;
      }
      const size_t part = i / delta_.key_size();  // q, k
      const size_t row = i % delta_.key_size();
      return row / dim * group + part * dim + row % dim;
    }
    default:
      return i;
  }
}

void TransformedTensor::read_row(size_t row, std::span<float> out) const {
  const bool is_vector = source_.shape.size() == 1;
  source_.read_row(is_vector ? row : source_row(row), out);
  if (is_vector || transform_ == Transform::value_columns) {
    const std::vector<float> before(out.begin(), out.end());
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = before[is_vector ? source_row(i) : source_of_values(i, out.size())];
    }
  }
  if (transform_ == Transform::plus_one) {
    for (float& x : out) x += 1;
  } else if (transform_ == Transform::negative_exp) {
    for (float& x : out) x = -std::exp(x);
  }
}

}  // namespace vga
