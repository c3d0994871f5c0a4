#include "source_tensor.h"

#include <cassert>

#include "gguf/decode.h"

namespace vga {

void SourceTensor::read_row(size_t row, std::span<float> out) const {
  assert(type && !shape.empty() && shape.size() <= 3 && out.size() == shape.back());
  const size_t size = row_bytes(*type, 1);
  uint64_t at = 0;
  if (shape.size() == 2) at = row * strides[0];
  if (shape.size() == 3) at = row / shape[1] * strides[0] + row % shape[1] * strides[1];
  const std::byte* from = data + at * size;
  const uint64_t stride = strides.back();
  if (stride == 1) {
    decode_row(*type, from, out);
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    decode_row(*type, from + i * stride * size, out.subspan(i, 1));
  }
}

std::vector<uint64_t> contiguous_strides(std::span<const uint64_t> shape) {
  std::vector<uint64_t> strides(shape.size());
  uint64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= shape[i]) strides[i] = stride;
  return strides;
}

}  // namespace vga
