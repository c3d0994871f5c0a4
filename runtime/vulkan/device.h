#pragma once

#include <array>
#include <atomic>
#include <compare>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string_view>

#include "vga/dtype.h"
#include "vulkan/physical_device.h"

/// A small layer over Vulkan 1.2: plain structs, free functions. Of a device it wants one queue
/// that computes, storage buffers and a timeline semaphore; 8-bit and 16-bit storage and
/// small floats are never asked for, so what lacks them is no special case.
namespace vga::vulkan {

/// A shader and what it is made for.
struct Shader {
  std::string_view op;                     // "matvec", a literal
  std::optional<DType> format = {};        // of weights or cache, where there are variants
  std::array<uint32_t, 2> constants = {};  // specialization constants 2 and 3, where it has them
  auto operator<=>(const Shader&) const = default;  // NOLINT(modernize-use-nullptr): its hidden 0
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
  static constexpr size_t max_buffers = Limits::bindings;
  static constexpr size_t max_constants = 128;  // bytes of push constants

  DeviceInfo info;
  Limits limits;
  VkPhysicalDevice physical;
  VkDevice handle = VK_NULL_HANDLE;
  VkQueue queue;
  uint32_t queue_family;
  double tick = 0;          // nanoseconds of the clock that pieces of work are timed by
  uint64_t clock_mask = 0;  // bits that count; 0: there is no clock
  VkPhysicalDeviceMemoryProperties memory_types;
  std::atomic<uint64_t> taken = 0;  // bytes of its memory, by all sessions
  std::mutex mutex;
  VkPipelineCache pipeline_cache = VK_NULL_HANDLE;
  size_t cached_bytes = 0;  // of the pipeline cache as it was read
  std::array<VkDescriptorSetLayout, max_buffers + 1> set_layouts{};  // by number of buffers
  std::array<VkPipelineLayout, max_buffers + 1> layouts{};
  std::map<Shader, Pipeline> pipelines;

 private:
  explicit Device(VkPhysicalDevice on) : physical(on) {}
};

/// The pipeline of a shader that binds `n_buffers` buffers. Made when first asked for; the
/// reference lives as long as the device.
const Device::Pipeline& pipeline(Device& device, const Shader& shader, uint32_t n_buffers);

/// What the validation layer and debuggers call an object.
void set_name(const Device& device, VkObjectType type, uint64_t object, const char* name);

inline uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace vga::vulkan
