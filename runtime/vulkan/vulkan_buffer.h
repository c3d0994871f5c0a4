#pragma once

#include "compute/backend.h"
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

/// Columns of x that share a gate; 0 if there is none.
inline uint32_t gate_width(const Buffer& x, const Buffer* gate) {
  return gate == nullptr ? 0 : static_cast<uint32_t>(x.cols() / gate->cols());
}

}  // namespace vga::vulkan
