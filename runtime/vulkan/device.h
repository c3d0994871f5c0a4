#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "physical_device.h"

/// A small layer over Vulkan 1.2: plain structs, free functions. Of a device it wants one queue
/// that computes, storage buffers and a timeline semaphore; 8-bit and 16-bit storage and
/// small floats are never asked for, so what lacks them is no special case.
namespace vga::vulkan {

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
  static constexpr size_t max_buffers = Limits::bindings;
  static constexpr size_t max_constants = 128;  // bytes of push constants

  DeviceInfo info;
  Limits limits;
  VkPhysicalDevice physical;
  VkDevice handle = VK_NULL_HANDLE;
  VkQueue queue;
  uint32_t queue_family;
  VkPhysicalDeviceMemoryProperties memory_types;
  std::atomic<uint64_t> taken = 0;  // bytes of its memory, by all sessions
  std::mutex mutex;
  VkPipelineCache pipeline_cache = VK_NULL_HANDLE;
  size_t cached_bytes = 0;  // of the pipeline cache as it was read
  std::array<VkDescriptorSetLayout, max_buffers + 1> set_layouts{};  // by number of buffers
  std::array<VkPipelineLayout, max_buffers + 1> layouts{};
  std::map<std::pair<std::string, std::vector<uint32_t>>, Pipeline> pipelines;

 private:
  explicit Device(VkPhysicalDevice on) : physical(on) {}
};

/// The pipeline of a shader that binds `n_buffers` buffers, with specialization constants: 0 is the
/// workgroup size, 1 the subgroup size, `constants` are those from 2 on. Made when first asked for;
/// the reference lives as long as the device.
const Device::Pipeline& pipeline(Device& device, std::string_view shader, uint32_t n_buffers,
                                 std::span<const uint32_t> constants = {});

/// What the validation layer and debuggers call an object.
void set_name(const Device& device, VkObjectType type, uint64_t object, const char* name);

inline uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace vga::vulkan
