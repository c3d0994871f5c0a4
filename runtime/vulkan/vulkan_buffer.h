#pragma once

#include <algorithm>
#include <string>

#include "compute/backend.h"
#include "vga/error.h"
#include "vulkan/commands.h"
#include "vulkan/devices.h"

namespace vga::vulkan {

/// Activations on a device, each row at a multiple of 8 floats.
class VulkanBuffer : public Buffer {
 public:
  VulkanBuffer(Commands& commands, size_t rows, size_t cols)
      : Buffer(rows, cols),
        commands_(commands),
        memory_(commands.device, rows * padded_cols(cols) * sizeof(float), Memory::Kind::device,
                "activations") {}
  ~VulkanBuffer() override { finish(commands_); }

  const Memory& memory() const { return memory_; }
  /// n rows.
  Range rows_from(size_t first, size_t n) const {
    const uint64_t stride = padded_cols(cols()) * sizeof(float);
    return {memory_.buffer, first * stride, n * stride};
  }

 private:
  Commands& commands_;  // that use it
  Memory memory_;
};

inline const VulkanBuffer& on_device(const Buffer& buffer) {
  return static_cast<const VulkanBuffer&>(buffer);
}

/// Rows of x that can be bound at once where the batch's are too many. Eight rows of any width
/// are a multiple of 256 bytes, and so begin where a binding may.
inline size_t rows_at_once(const Limits& limits, const Buffer& x, size_t n_rows) {
  const uint64_t row = padded_cols(x.cols()) * sizeof(float);
  const uint64_t n = limits.storage_range / row;
  const uint64_t least = std::min<uint64_t>(n_rows, 8);
  if (n < least) {
    throw Error("activations", std::to_string(least) + " rows take " + std::to_string(least * row) +
                                   " bytes, the device binds " +
                                   std::to_string(limits.storage_range));
  }
  return n >= n_rows ? n_rows : n / 8 * 8;
}

/// Columns of x that share a gate; 0 if there is none.
inline uint32_t gate_width(const Buffer& x, const Buffer* gate) {
  return gate == nullptr ? 0 : static_cast<uint32_t>(x.cols() / gate->cols());
}

}  // namespace vga::vulkan
