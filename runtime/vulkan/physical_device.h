#pragma once

#include <set>
#include <string>
#include <vector>

#include "vulkan/devices.h"
#include "vulkan/instance.h"

namespace vga::vulkan {

/// What a device allows. VGA_VULKAN_LIMITS lowers these for tests, see physical_device.cpp.
struct Limits {
  static constexpr uint32_t bindings = 8;          // storage buffers of one pipeline: wanted
  static constexpr uint32_t workgroup_size = 128;  // invocations along x: every device can
  DeviceInfo::Type type;                           // that it is taken for
  uint32_t subgroup_size;      // of pipelines that ask for whole subgroups; 1: ask for none
  uint64_t storage_range;      // bytes that one binding may span
  uint64_t storage_alignment;  // of a binding's offset
  uint64_t allocation;         // bytes of one piece of memory, and of one buffer
  uint64_t memory;             // bytes that may be taken at all
  uint64_t import_alignment;   // of host memory used in place; 0: it cannot be
  bool push_descriptors;
  // Multiply-adds of one piece of work. It begins with what takes a slow chip some tens of
  // milliseconds, and takes more as the device turns out to be faster: see Commands::max_cost.
  double least_cost;
  double most_cost;
  uint64_t calls;  // that are made before the device is lost, for tests
};

/// What a driver says about a device.
struct Properties {
  explicit Properties(VkPhysicalDevice physical);
  bool has(const char* extension) const { return extensions.contains(extension); }

  std::set<std::string, std::less<>> extensions;
  VkPhysicalDeviceProperties base;
  VkPhysicalDeviceMemoryProperties memory;
  VkPhysicalDeviceDriverProperties driver = {};
  VkPhysicalDeviceIDProperties ids = {};
  VkPhysicalDeviceMaintenance3Properties maintenance = {};
  VkPhysicalDeviceSubgroupProperties subgroup = {};
  VkPhysicalDeviceSubgroupSizeControlPropertiesEXT sizes = {};
  VkPhysicalDeviceSubgroupSizeControlFeaturesEXT size_control = {};
  VkPhysicalDeviceExternalMemoryHostPropertiesEXT host_memory = {};
  VkPhysicalDeviceTimelineSemaphoreFeatures timeline = {};
  uint32_t queue_family = UINT32_MAX;
  uint32_t timestamp_bits = 0;  // of its clock, 0 if it has none
};

Limits limits_of(const Properties& properties);

DeviceInfo info_of(VkPhysicalDevice physical, const Properties& properties);

/// Each GPU once: of two drivers for one, the first that fits. An Error if there is none.
std::vector<VkPhysicalDevice> physical_devices();

}  // namespace vga::vulkan
