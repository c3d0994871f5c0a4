#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <volk.h>

#include "../error.h"
#include "devices.h"

/// A small layer over Vulkan 1.2: plain structs, free functions. Of a device it wants one queue
/// that computes, storage buffers and a timeline semaphore; 8-bit and 16-bit storage and
/// small floats are never asked for, so what lacks them is no special case.
namespace vga::vulkan {

/// An Error that names the call if it failed: VK(vkCreateFence(...)).
void check(VkResult result, const char* call);
#define VK(call) ::vga::vulkan::check(call, #call)

/// What a device allows. VGA_VULKAN_LIMITS lowers these for tests, see device.cpp.
struct Limits {
  static constexpr uint32_t workgroup_size = 128;  // invocations along x: every device can
  uint32_t subgroup_size;      // of pipelines that ask for whole subgroups; 1: ask for none
  uint64_t storage_range;      // bytes that one binding may span
  uint64_t storage_alignment;  // of a binding's offset
  uint64_t allocation;         // bytes of one piece of memory, and of one buffer
  uint64_t memory;             // bytes that may be taken at all
  uint64_t import_alignment;   // of host memory used in place; 0: it cannot be
  bool push_descriptors;
};

/// An open device. Sessions in several threads share it; `mutex` guards the queue and the
/// pipelines.
struct Device {
  explicit Device(size_t index);  // of devices()
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();

  struct Pipeline {
    VkPipeline handle;
    VkPipelineLayout layout;
    VkDescriptorSetLayout set_layout;
    uint32_t n_buffers;
  };
  static constexpr size_t max_buffers = 8;      // bindings of one pipeline
  static constexpr size_t max_constants = 128;  // bytes of push constants

  DeviceInfo info;
  Limits limits;
  VkPhysicalDevice physical;
  VkDevice handle;
  VkQueue queue;
  uint32_t queue_family;
  VkPhysicalDeviceMemoryProperties memory_types;
  bool memory_budget;  // whether the driver tells what is free
  std::mutex mutex;
  VkPipelineCache pipeline_cache;
  size_t cached_bytes = 0;  // of the pipeline cache as it was read
  std::array<VkDescriptorSetLayout, max_buffers + 1> set_layouts{};  // by number of buffers
  std::array<VkPipelineLayout, max_buffers + 1> layouts{};
  std::map<std::pair<std::string, std::vector<uint32_t>>, Pipeline> pipelines;
};

/// The pipeline of a shader that binds `n_buffers` buffers, with specialization constants: 0 is the
/// workgroup size, 1 the subgroup size, `constants` are those from 2 on. Made when first asked for;
/// the reference lives as long as the device.
const Device::Pipeline& pipeline(Device& device, std::string_view shader, uint32_t n_buffers,
                                 std::span<const uint32_t> constants = {});

/// Bytes of the device's own memory that nobody uses; an estimate.
uint64_t free_memory(const Device& device);

/// Memory with one buffer over all of it.
struct Memory {
  enum class Kind {
    device,    // fast for the device
    upload,    // the host writes, the device reads
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
