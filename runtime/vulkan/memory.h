#pragma once

#include "vulkan/device.h"

namespace vga::vulkan {

/// Memory with one buffer over all of it.
struct Memory {
  enum class Kind {
    device,    // fast for the device
    upload,    // the host writes, the device reads once
    shared,    // the host writes, the device reads time and again
    readback,  // the device writes, the host reads
  };
  Memory() = default;
  Memory(Device& device, uint64_t bytes, Kind kind, const char* name);
  /// Host memory in place; the Memory is empty if the driver refuses. Pointer and size are
  /// multiples of import_alignment.
  static Memory import(Device& device, const std::byte* host, uint64_t bytes, const char* name);
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  ~Memory();

  Device* device = nullptr;
  VkBuffer buffer = VK_NULL_HANDLE;
  VkDeviceMemory memory = VK_NULL_HANDLE;
  uint64_t bytes = 0;
  uint64_t taken = 0;           // of the device's own memory
  std::byte* mapped = nullptr;  // where the host sees it; null in Kind::device
};

/// A part of a buffer, as an op binds it.
struct Range {
  VkBuffer buffer;
  uint64_t offset;
  uint64_t bytes;
};
inline Range whole(const Memory& memory) {
  return {memory.buffer, 0, memory.bytes};
}

}  // namespace vga::vulkan
