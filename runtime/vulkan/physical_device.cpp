#include "vulkan/physical_device.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "vga/error.h"

namespace vga::vulkan {
namespace {

/// VGA_VULKAN_LIMITS makes a device poorer than it is, so that tests walk such paths on any
/// machine: "subgroup=1,range=1000000" or "no-push-descriptors".
///
///   subgroup=N                 invocations of a subgroup (1: none are relied on)
///   range=N allocation=N       bytes of a binding, of a piece of memory
///   memory=N                   bytes of the device that are free
///   alignment=N                of a binding's offset
///   cost=N                     multiply-adds of a piece of work, whatever it takes
///   no-push-descriptors no-import
///   discrete                   taken for a discrete GPU, whatever it is
///   lose=N                     the device is lost N calls after it was opened
void apply_forced_limits(Limits& limits) {
  const char* variable = std::getenv("VGA_VULKAN_LIMITS");
  std::string_view rest = variable == nullptr ? "" : variable;
  while (!rest.empty()) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    const size_t equals = item.find('=');
    const std::string_view key = item.substr(0, equals);
    uint64_t value = 0;
    if (equals != std::string_view::npos) {
      const std::string_view digits = item.substr(equals + 1);
      const auto [end, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), value);
      if (error != std::errc() || end != digits.data() + digits.size() || value == 0) {
        throw Error("VGA_VULKAN_LIMITS", "wanted a number, found '" + std::string(item) + "'");
      }
    }
    const auto lower = [&](auto& limit) {
      limit =
          static_cast<std::remove_reference_t<decltype(limit)>>(std::min<uint64_t>(limit, value));
    };
    if (key == "no-push-descriptors") {
      limits.push_descriptors = false;
    } else if (key == "no-import") {
      limits.import_alignment = 0;
    } else if (key == "discrete") {
      limits.type = DeviceInfo::Type::discrete;
    } else if (value > 0 && key == "subgroup") {
      lower(limits.subgroup_size);
    } else if (value > 0 && key == "range") {
      lower(limits.storage_range);
    } else if (value > 0 && key == "allocation") {
      lower(limits.allocation);
    } else if (value > 0 && key == "memory") {
      lower(limits.memory);
    } else if (value > 0 && key == "cost") {
      limits.most_cost = static_cast<double>(value);
      limits.least_cost = limits.most_cost;
    } else if (value > 0 && key == "lose") {
      limits.calls = value;
    } else if (value > 0 && key == "alignment") {
      limits.storage_alignment = std::max(limits.storage_alignment, value);
    } else {
      throw Error("VGA_VULKAN_LIMITS", "does not know '" + std::string(item) + "'");
    }
  }
}

/// Lanes that are sure to run together and can add up: whole subgroups of a size that can be asked
/// for. 1 if none.
uint32_t subgroup_size(const Properties& p) {
  const bool arithmetic =
      (p.subgroup.supportedOperations & VK_SUBGROUP_FEATURE_ARITHMETIC_BIT) != 0 &&
      (p.subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0;
  const bool sure = p.size_control.subgroupSizeControl == VK_TRUE &&
                    p.size_control.computeFullSubgroups == VK_TRUE &&
                    (p.sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0;
  // Sixteen where there is a choice: Intel's registers are too few for wider ones.
  const uint32_t size = std::clamp(16u, p.sizes.minSubgroupSize, p.sizes.maxSubgroupSize);
  const bool enough =
      size > 0 && Limits::workgroup_size / size <= p.sizes.maxComputeWorkgroupSubgroups;
  return arithmetic && sure && enough && size <= Limits::workgroup_size ? size : 1;
}

std::string unfit(const Properties& p) {
  if (p.base.apiVersion < api_version) return "its driver is older than Vulkan 1.2";
  if (p.queue_family == UINT32_MAX) return "it has no queue that computes";
  if (p.timeline.timelineSemaphore != VK_TRUE) return "it has no timeline semaphores";
  if (p.base.limits.maxPerStageDescriptorStorageBuffers < Limits::bindings) {
    return "it binds " + std::to_string(p.base.limits.maxPerStageDescriptorStorageBuffers) +
           " buffers at once, wanted " + std::to_string(Limits::bindings);
  }
  return "";
}

/// The heap that Memory::Kind::device comes from: the largest of the device's own.
uint32_t own_heap(const VkPhysicalDeviceMemoryProperties& memory) {
  uint32_t best = 0;
  const auto size = [&](uint32_t i) {
    const VkMemoryHeap& heap = memory.memoryHeaps[i];
    return (heap.flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) != 0 ? heap.size : 0;
  };
  for (uint32_t i = 1; i < memory.memoryHeapCount; ++i) {
    if (size(i) > size(best)) best = i;
  }
  return best;
}

/// Bytes of its own memory that nobody uses; all of them where there is no `budget`.
uint64_t free_bytes(VkPhysicalDevice physical, bool budget) {
  VkPhysicalDeviceMemoryBudgetPropertiesEXT free = {};
  free.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT;
  VkPhysicalDeviceMemoryProperties2 memory = {};
  memory.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2;
  memory.pNext = budget ? &free : nullptr;
  vkGetPhysicalDeviceMemoryProperties2(physical, &memory);
  const uint32_t heap = own_heap(memory.memoryProperties);
  const uint64_t size = memory.memoryProperties.memoryHeaps[heap].size;
  if (!budget) return size;
  const uint64_t used = std::min(free.heapUsage[heap], free.heapBudget[heap]);
  return std::min(size, free.heapBudget[heap] - used);  // some drivers promise more than there is
}

DeviceInfo::Type type_of(VkPhysicalDeviceType type) {
  switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
      return DeviceInfo::Type::discrete;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
      return DeviceInfo::Type::integrated;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
      return DeviceInfo::Type::virtual_gpu;
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
      return DeviceInfo::Type::cpu;
    default:
      return DeviceInfo::Type::other;
  }
}

}  // namespace

Properties::Properties(VkPhysicalDevice physical) {
  uint32_t count = 0;
  vkEnumerateDeviceExtensionProperties(physical, nullptr, &count, nullptr);
  std::vector<VkExtensionProperties> list(count);
  vkEnumerateDeviceExtensionProperties(physical, nullptr, &count, list.data());
  for (const VkExtensionProperties& extension : list) extensions.insert(extension.extensionName);

  driver.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES;
  ids.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES;
  ids.pNext = &driver;
  maintenance.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES;
  maintenance.pNext = &ids;
  subgroup.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES;
  subgroup.pNext = &maintenance;
  void* chain = &subgroup;
  sizes.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES_EXT;
  if (has(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME)) {
    sizes.pNext = chain;
    chain = &sizes;
  }
  host_memory.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT;
  if (has(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME)) {
    host_memory.pNext = chain;
    chain = &host_memory;
  }
  VkPhysicalDeviceProperties2 all = {};
  all.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
  all.pNext = chain;
  vkGetPhysicalDeviceProperties2(physical, &all);
  base = all.properties;
  vkGetPhysicalDeviceMemoryProperties(physical, &memory);

  timeline.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES;
  VkPhysicalDeviceFeatures2 features = {};
  features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
  features.pNext = &timeline;
  size_control.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT;
  if (has(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME)) timeline.pNext = &size_control;
  if (base.apiVersion >= api_version) vkGetPhysicalDeviceFeatures2(physical, &features);

  uint32_t n_families = 0;
  vkGetPhysicalDeviceQueueFamilyProperties(physical, &n_families, nullptr);
  std::vector<VkQueueFamilyProperties> families(n_families);
  vkGetPhysicalDeviceQueueFamilyProperties(physical, &n_families, families.data());
  // The first that computes, better one that does not draw: what draws is the desktop's, too.
  bool draws = true;
  for (uint32_t i = 0; i < n_families && draws; ++i) {
    if ((families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) continue;
    draws = (families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT) != 0;
    if (!draws || queue_family == UINT32_MAX) queue_family = i;
  }
  if (queue_family != UINT32_MAX) timestamp_bits = families[queue_family].timestampValidBits;
}

Limits limits_of(const Properties& p) {
  const VkPhysicalDeviceLimits& base = p.base.limits;
  Limits limits = {
      .type = type_of(p.base.deviceType),
      .subgroup_size = subgroup_size(p),
      // Some drivers name four GiB and cannot do it.
      .storage_range = std::min<uint64_t>(base.maxStorageBufferRange, 1u << 31),
      .storage_alignment = std::max<uint64_t>(base.minStorageBufferOffsetAlignment, 4),
      .allocation = std::min<uint64_t>(p.maintenance.maxMemoryAllocationSize, 1u << 31),
      .memory = UINT64_MAX,
      .import_alignment = p.has(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME)
                              ? p.host_memory.minImportedHostPointerAlignment
                              : 0,
      .push_descriptors = p.has(VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME),
      .least_cost = 5e8,
      .most_cost = 1e11,
      .calls = UINT64_MAX};
  apply_forced_limits(limits);
  if (limits.subgroup_size < p.sizes.minSubgroupSize) limits.subgroup_size = 1;
  limits.storage_range = std::min(limits.storage_range, limits.allocation);
  return limits;
}

DeviceInfo info_of(VkPhysicalDevice physical, const Properties& p) {
  const bool budget = p.has(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  const Limits limits = limits_of(p);
  return {.name = p.base.deviceName,
          .type = limits.type,
          .driver = std::string(p.driver.driverName) + " " + p.driver.driverInfo,
          .memory = p.memory.memoryHeaps[own_heap(p.memory)].size,
          .free = std::min(free_bytes(physical, budget), limits.memory),
          .unfit = unfit(p)};
}

std::vector<VkPhysicalDevice> physical_devices() {
  if (!instance().why_not.empty()) throw Error("Vulkan", instance().why_not);
  uint32_t count = 0;
  VK(vkEnumeratePhysicalDevices(instance().handle, &count, nullptr));
  std::vector<VkPhysicalDevice> all(count);
  VK(vkEnumeratePhysicalDevices(instance().handle, &count, all.data()));
  if (all.empty()) throw Error("Vulkan", "no driver offers a device");

  std::vector<VkPhysicalDevice> kept;
  std::vector<std::pair<std::array<uint8_t, VK_UUID_SIZE>, bool>> seen;  // with whether it fits
  for (VkPhysicalDevice physical : all) {
    const Properties p(physical);
    std::array<uint8_t, VK_UUID_SIZE> id;
    std::ranges::copy(p.ids.deviceUUID, id.begin());
    const bool fits = unfit(p).empty();
    const auto twin = std::ranges::find(seen, id, &decltype(seen)::value_type::first);
    if (twin == seen.end()) {
      kept.push_back(physical);
      seen.emplace_back(id, fits);
    } else if (fits && !twin->second) {
      kept[static_cast<size_t>(twin - seen.begin())] = physical;
      twin->second = true;
    }
  }
  return kept;
}

std::vector<DeviceInfo> devices() {
  std::vector<DeviceInfo> all;
  for (VkPhysicalDevice physical : physical_devices()) {
    all.push_back(info_of(physical, Properties(physical)));
  }
  return all;
}

}  // namespace vga::vulkan
