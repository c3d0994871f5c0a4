#pragma once

#include <deque>

#include "model/tensor.h"
#include "vulkan/memory.h"

namespace vga::vulkan {

/// A weight on a device, in as many slices of rows as its limits ask for.
struct Weight {
  struct Slice {
    Range range;    // what to bind
    uint32_t base;  // where in there the rows begin, in units of 2 bytes
    uint32_t first_row;
    uint32_t n_rows;
  };
  std::vector<Slice> slices;
};

/// A vector, as a shader finds it; empty where there is none.
struct BoundVector {
  uint32_t present = 0;
  uint32_t base = 0;  // where in its range it begins, in floats
};

inline BoundVector bound(const Tensor& vector) {
  if (!vector) return {};
  return {1, vector.on_device->slices.front().base / 2};
}

/// What to bind of it. Something has to be where there is no vector: `other`.
inline Range range_of(const Tensor& vector, const Range& other) {
  return vector ? vector.on_device->slices.front().range : other;
}

/// Weights on a device, and the memory that they lie in.
struct PlacedWeights {
  std::vector<Memory> memory;
  std::deque<Weight> weights;  // tensors point to them
};

/// A device, and the weights that it holds.
struct DeviceWeights {
  explicit DeviceWeights(size_t index) : device(index) {}

  Device device;
  PlacedWeights placed;
};

/// Gives the device these tensors: a mapped file in place where device and driver share the host's
/// memory, else a copy, as of those whose rows take turns with others'. Sets their `on_device`. An
/// Error if there is no room for the copies and `besides` more bytes.
void load(Device& device, PlacedWeights& to, std::span<Tensor* const> tensors, uint64_t besides,
          const std::function<void(uint64_t, uint64_t)>& progress);

}  // namespace vga::vulkan
