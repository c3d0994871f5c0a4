#include "device.h"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include "../file.h"
#include "shaders.h"

namespace vga::vulkan {
namespace {

constexpr uint32_t api_version = VK_API_VERSION_1_2;
constexpr uint32_t needed_buffers = Device::max_buffers;

std::string result_text(VkResult result) {
  switch (result) {
    case VK_ERROR_DEVICE_LOST:
      return "the device was lost: its driver reset it; start again, or use --device cpu";
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
      return "the device is out of memory; a shorter --context, fewer --gpu-layers or --device cpu "
             "take less";
    case VK_ERROR_OUT_OF_HOST_MEMORY:
      return "the driver is out of host memory";
    case VK_ERROR_INCOMPATIBLE_DRIVER:
      return "no driver was found";
    case VK_ERROR_INITIALIZATION_FAILED:
      return "the driver could not start";
    default:
      return "error " + std::to_string(result);
  }
}

/// Errors of the validation layer, where it is on: written out, and fatal when a test wants that.
VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT,
                                          VkDebugUtilsMessageTypeFlagsEXT,
                                          const VkDebugUtilsMessengerCallbackDataEXT* data, void*) {
  // A model for tests is small, and so are its buffers.
  for (const char* small : {"UNASSIGNED-BestPractices-vkAllocateMemory-small-allocation",
                            "UNASSIGNED-BestPractices-vkBindMemory-small-dedicated-allocation"}) {
    if (data->pMessageIdName != nullptr && std::strcmp(data->pMessageIdName, small) == 0) {
      return VK_FALSE;
    }
  }
  std::fprintf(stderr, "vulkan validation: %s\n", data->pMessage);
  if (std::getenv("VGA_VULKAN_VALIDATION") != nullptr) std::_Exit(3);
  return VK_FALSE;
}

/// The validation layer is asked for in debug builds, and by VGA_VULKAN_VALIDATION in all: then
/// with every check, and its first message ends the program with status 3.
bool wants_validation() {
#ifdef VGA_VULKAN_VALIDATION
  return true;
#else
  return std::getenv("VGA_VULKAN_VALIDATION") != nullptr;
#endif
}

bool has_layer(const char* name) {
  uint32_t count = 0;
  vkEnumerateInstanceLayerProperties(&count, nullptr);
  std::vector<VkLayerProperties> layers(count);
  vkEnumerateInstanceLayerProperties(&count, layers.data());
  return std::ranges::any_of(
      layers, [&](const VkLayerProperties& l) { return std::strcmp(l.layerName, name) == 0; });
}

/// The one instance of the process, opened when first asked for.
struct Instance {
  Instance() {
    if (volkInitialize() != VK_SUCCESS) {
      why_not = "no Vulkan loader (libvulkan.so.1) on this machine";
      return;
    }
    if (volkGetInstanceVersion() < api_version) {
      why_not = "the Vulkan loader is older than 1.2";
      return;
    }
    const VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                                           .pNext = nullptr,
                                           .pApplicationName = "vga",
                                           .applicationVersion = 1,
                                           .pEngineName = "vga",
                                           .engineVersion = 1,
                                           .apiVersion = api_version};
    VkInstanceCreateInfo info = {};
    info.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
    info.pApplicationInfo = &application;

    const char* layer = "VK_LAYER_KHRONOS_validation";
    const char* extension = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    const std::array checks = {VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT,
                               VK_VALIDATION_FEATURE_ENABLE_BEST_PRACTICES_EXT};
    VkValidationFeaturesEXT features = {};
    features.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT;
    features.enabledValidationFeatureCount = static_cast<uint32_t>(checks.size());
    features.pEnabledValidationFeatures = checks.data();
    VkDebugUtilsMessengerCreateInfoEXT messenger = {};
    messenger.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT;
    messenger.messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT |
                                VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
    messenger.messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT |
                            VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT;
    messenger.pfnUserCallback = on_message;
    validation = wants_validation() && has_layer(layer);
    if (validation) {
      info.enabledLayerCount = 1;
      info.ppEnabledLayerNames = &layer;
      info.enabledExtensionCount = 1;
      info.ppEnabledExtensionNames = &extension;
      info.pNext = &features;
    } else if (std::getenv("VGA_VULKAN_VALIDATION") != nullptr) {
      why_not = "VGA_VULKAN_VALIDATION is set and the validation layer is not installed";
      return;
    }
    if (const VkResult result = vkCreateInstance(&info, nullptr, &handle); result != VK_SUCCESS) {
      why_not = result_text(result);
      return;
    }
    volkLoadInstance(handle);
    if (validation) vkCreateDebugUtilsMessengerEXT(handle, &messenger, nullptr, &debug);
  }
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;
  ~Instance() {
    if (debug != VK_NULL_HANDLE) vkDestroyDebugUtilsMessengerEXT(handle, debug, nullptr);
    if (handle != VK_NULL_HANDLE) vkDestroyInstance(handle, nullptr);
  }

  VkInstance handle = VK_NULL_HANDLE;
  VkDebugUtilsMessengerEXT debug = VK_NULL_HANDLE;
  bool validation = false;
  std::string why_not;
};

const Instance& instance() {
  static const Instance the_instance;
  return the_instance;
}

/// What a driver says about a device.
struct Properties {
  explicit Properties(VkPhysicalDevice physical) {
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
    for (uint32_t i = n_families; i-- > 0;) {
      if ((families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) != 0) queue_family = i;
    }
    if (queue_family == n_families) queue_family = UINT32_MAX;
  }

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
};

/// VGA_VULKAN_LIMITS makes a device poorer than it is, so that tests walk such paths on any
/// machine: "subgroup=1,range=1000000" or "no-push-descriptors".
///
///   subgroup=N                 invocations of a subgroup (1: none are relied on)
///   range=N allocation=N       bytes of a binding, of a piece of memory
///   memory=N                   bytes of the device that are free
///   alignment=N                of a binding's offset
///   no-push-descriptors no-import
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
    } else if (value > 0 && key == "subgroup") {
      lower(limits.subgroup_size);
    } else if (value > 0 && key == "range") {
      lower(limits.storage_range);
    } else if (value > 0 && key == "allocation") {
      lower(limits.allocation);
    } else if (value > 0 && key == "memory") {
      lower(limits.memory);
    } else if (value > 0 && key == "alignment") {
      limits.storage_alignment = std::max(limits.storage_alignment, value);
    } else {
      throw Error("VGA_VULKAN_LIMITS", "does not know '" + std::string(item) + "'");
    }
  }
}

/// Lanes that are sure to run together: whole subgroups of a size that can be asked for. 1 if none.
uint32_t subgroup_size(const Properties& p) {
  const bool sure = p.size_control.subgroupSizeControl == VK_TRUE &&
                    p.size_control.computeFullSubgroups == VK_TRUE &&
                    (p.sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0;
  const uint32_t size =
      std::clamp(p.subgroup.subgroupSize, p.sizes.minSubgroupSize, p.sizes.maxSubgroupSize);
  const bool enough =
      size > 0 && Limits::workgroup_size / size <= p.sizes.maxComputeWorkgroupSubgroups;
  return sure && enough && size <= Limits::workgroup_size ? size : 1;
}

Limits limits_of(const Properties& p) {
  const VkPhysicalDeviceLimits& base = p.base.limits;
  Limits limits = {
      .subgroup_size = subgroup_size(p),
      // Some drivers name four GiB and cannot do it.
      .storage_range = std::min<uint64_t>(base.maxStorageBufferRange, 1u << 31),
      .storage_alignment = std::max<uint64_t>(base.minStorageBufferOffsetAlignment, 4),
      .allocation = std::min<uint64_t>(p.maintenance.maxMemoryAllocationSize, 1u << 31),
      .memory = UINT64_MAX,
      .import_alignment = p.has(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME)
                              ? p.host_memory.minImportedHostPointerAlignment
                              : 0,
      .push_descriptors = p.has(VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME)};
  apply_forced_limits(limits);
  if (limits.subgroup_size < p.sizes.minSubgroupSize) limits.subgroup_size = 1;
  limits.allocation = std::max(limits.allocation, limits.storage_range);
  return limits;
}

std::string unfit(const Properties& p) {
  if (p.base.apiVersion < api_version) return "its driver is older than Vulkan 1.2";
  if (p.queue_family == UINT32_MAX) return "it has no queue that computes";
  if ((p.subgroup.supportedOperations & VK_SUBGROUP_FEATURE_ARITHMETIC_BIT) == 0 ||
      (p.subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) == 0) {
    return "its shaders cannot hold subgroup arithmetic";
  }
  if (p.timeline.timelineSemaphore != VK_TRUE) return "it has no timeline semaphores";
  if (p.base.limits.maxPerStageDescriptorStorageBuffers < needed_buffers) {
    return "it binds " + std::to_string(p.base.limits.maxPerStageDescriptorStorageBuffers) +
           " buffers at once, wanted " + std::to_string(needed_buffers);
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

DeviceInfo info_of(VkPhysicalDevice physical, const Properties& p) {
  const bool budget = p.has(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  return {.name = p.base.deviceName,
          .type = type_of(p.base.deviceType),
          .driver = std::string(p.driver.driverName) + " " + p.driver.driverInfo,
          .memory = p.memory.memoryHeaps[own_heap(p.memory)].size,
          .free = std::min(free_bytes(physical, budget), limits_of(p).memory),
          .unfit = unfit(p)};
}

/// Each GPU once: of two drivers for one, the first that fits.
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

/// Where the pipelines of a device and driver are kept between runs; empty if there is no place.
std::filesystem::path cache_file(const Properties& p) {
  std::filesystem::path folder;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != 0) {
    folder = cache;
  } else if (const char* home = std::getenv("HOME"); home != nullptr && *home != 0) {
    folder = std::filesystem::path(home) / ".cache";
  } else {
    return {};
  }
  std::string name = "pipelines-";
  for (const uint8_t byte : p.base.pipelineCacheUUID) {
    constexpr std::string_view digits = "0123456789abcdef";
    name += digits[byte >> 4];
    name += digits[byte & 15];
  }
  return folder / "vga.cpp" / name;
}

/// A missing or torn cache costs time, nothing else; drivers check what they are given.
std::string read_cache(const std::filesystem::path& file) {
  try {
    if (!file.empty() && std::filesystem::exists(file)) return read_text(file, 1 << 26);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
  }
  return "";
}

void write_cache_file(const std::filesystem::path& file, std::span<const std::byte> bytes) {
  try {
    if (file.empty()) return;
    std::filesystem::create_directories(file.parent_path());
    OutputFile out(file);
    out.write(bytes);
    out.commit();
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
  }
}

void set_name(const Device& device, VkObjectType type, uint64_t object, const char* name) {
  if (!instance().validation) return;
  VkDebugUtilsObjectNameInfoEXT info = {};
  info.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_OBJECT_NAME_INFO_EXT;
  info.objectType = type;
  info.objectHandle = object;
  info.pObjectName = name;
  vkSetDebugUtilsObjectNameEXT(device.handle, &info);
}

/// The first memory type, among those a buffer may have, with all of `wanted`, or UINT32_MAX.
uint32_t find_type(const Device& device, uint32_t allowed, VkMemoryPropertyFlags wanted) {
  for (uint32_t i = 0; i < device.memory_types.memoryTypeCount; ++i) {
    const bool has = (device.memory_types.memoryTypes[i].propertyFlags & wanted) == wanted;
    if (has && (allowed >> i & 1) != 0) return i;
  }
  return UINT32_MAX;
}

VkBuffer new_vk_buffer(const Device& device, uint64_t bytes, const void* next, const char* name) {
  VkBufferCreateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  info.pNext = next;
  info.size = bytes;
  info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
               VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  VkBuffer buffer = VK_NULL_HANDLE;
  VK(vkCreateBuffer(device.handle, &info, nullptr, &buffer));
  set_name(device, VK_OBJECT_TYPE_BUFFER, reinterpret_cast<uint64_t>(buffer), name);
  return buffer;
}

}  // namespace

void check(VkResult result, const char* call) {
  if (result == VK_SUCCESS) return;
  const std::string_view text = call;
  throw Error("Vulkan", std::string(text.substr(0, text.find('('))) + ": " + result_text(result));
}

std::vector<DeviceInfo> devices() {
  std::vector<DeviceInfo> all;
  for (VkPhysicalDevice physical : physical_devices()) {
    all.push_back(info_of(physical, Properties(physical)));
  }
  return all;
}

Device::Device(size_t index) : physical(physical_devices().at(index)) {
  const Properties p(physical);
  info = info_of(physical, p);
  if (!info.unfit.empty()) throw Error(info.name, info.unfit);
  limits = limits_of(p);
  queue_family = p.queue_family;
  memory_types = p.memory;
  memory_budget = p.has(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);

  std::vector<const char*> extensions;
  if (limits.push_descriptors) extensions.push_back(VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME);
  if (memory_budget) extensions.push_back(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  if (limits.import_alignment > 0) {
    extensions.push_back(VK_EXT_EXTERNAL_MEMORY_HOST_EXTENSION_NAME);
  }
  const float priority = 0.5f;
  VkDeviceQueueCreateInfo queues = {};
  queues.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
  queues.queueFamilyIndex = queue_family;
  queues.queueCount = 1;
  queues.pQueuePriorities = &priority;
  VkPhysicalDeviceTimelineSemaphoreFeatures timeline = {};
  timeline.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES;
  timeline.timelineSemaphore = VK_TRUE;
  VkPhysicalDeviceSubgroupSizeControlFeaturesEXT whole_subgroups = {};
  whole_subgroups.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT;
  whole_subgroups.subgroupSizeControl = VK_TRUE;
  whole_subgroups.computeFullSubgroups = VK_TRUE;
  if (limits.subgroup_size > 1) {
    extensions.push_back(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
    timeline.pNext = &whole_subgroups;
  }
  VkDeviceCreateInfo create = {};
  create.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
  create.pNext = &timeline;
  create.queueCreateInfoCount = 1;
  create.pQueueCreateInfos = &queues;
  create.enabledExtensionCount = static_cast<uint32_t>(extensions.size());
  create.ppEnabledExtensionNames = extensions.data();
  VK(vkCreateDevice(physical, &create, nullptr, &handle));
  vkGetDeviceQueue(handle, queue_family, 0, &queue);

  const std::string cached = read_cache(cache_file(p));
  cached_bytes = cached.size();
  VkPipelineCacheCreateInfo cache = {};
  cache.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO;
  cache.initialDataSize = cached.size();
  cache.pInitialData = cached.data();
  VK(vkCreatePipelineCache(handle, &cache, nullptr, &pipeline_cache));

  for (uint32_t n = 1; n <= max_buffers; ++n) {
    std::array<VkDescriptorSetLayoutBinding, max_buffers> bindings = {};
    for (uint32_t i = 0; i < n; ++i) {
      bindings[i] = {i, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr};
    }
    VkDescriptorSetLayoutCreateInfo set = {};
    set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
    if (limits.push_descriptors) {
      set.flags = VK_DESCRIPTOR_SET_LAYOUT_CREATE_PUSH_DESCRIPTOR_BIT_KHR;
    }
    set.bindingCount = n;
    set.pBindings = bindings.data();
    VK(vkCreateDescriptorSetLayout(handle, &set, nullptr, &set_layouts[n]));
    const VkPushConstantRange constants = {VK_SHADER_STAGE_COMPUTE_BIT, 0, max_constants};
    VkPipelineLayoutCreateInfo layout = {};
    layout.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
    layout.setLayoutCount = 1;
    layout.pSetLayouts = &set_layouts[n];
    layout.pushConstantRangeCount = 1;
    layout.pPushConstantRanges = &constants;
    VK(vkCreatePipelineLayout(handle, &layout, nullptr, &layouts[n]));
  }
}

Device::~Device() {
  vkDeviceWaitIdle(handle);
  size_t bytes = 0;
  vkGetPipelineCacheData(handle, pipeline_cache, &bytes, nullptr);
  if (bytes != cached_bytes) {
    std::vector<std::byte> data(bytes);
    if (vkGetPipelineCacheData(handle, pipeline_cache, &bytes, data.data()) == VK_SUCCESS) {
      write_cache_file(cache_file(Properties(physical)), std::span(data).first(bytes));
    }
  }
  for (const auto& [key, made] : pipelines) vkDestroyPipeline(handle, made.handle, nullptr);
  for (uint32_t n = 1; n <= max_buffers; ++n) {
    vkDestroyPipelineLayout(handle, layouts[n], nullptr);
    vkDestroyDescriptorSetLayout(handle, set_layouts[n], nullptr);
  }
  vkDestroyPipelineCache(handle, pipeline_cache, nullptr);
  vkDestroyDevice(handle, nullptr);
}

const Device::Pipeline& pipeline(Device& device, std::string_view shader, uint32_t n_buffers,
                                 std::span<const uint32_t> constants) {
  std::pair key{std::string(shader),
                std::vector<uint32_t>{device.limits.workgroup_size, device.limits.subgroup_size}};
  key.second.insert(key.second.end(), constants.begin(), constants.end());
  const std::lock_guard lock(device.mutex);
  if (const auto found = device.pipelines.find(key); found != device.pipelines.end()) {
    return found->second;
  }
  std::vector<VkSpecializationMapEntry> entries;
  for (uint32_t i = 0; i < key.second.size(); ++i) {
    entries.push_back({i, static_cast<uint32_t>(i * sizeof(uint32_t)), sizeof(uint32_t)});
  }
  const VkSpecializationInfo numbers = {static_cast<uint32_t>(entries.size()), entries.data(),
                                        key.second.size() * sizeof(uint32_t), key.second.data()};
  const std::span<const uint32_t> code = shader_code(shader);
  VkShaderModuleCreateInfo module = {};
  module.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
  module.codeSize = code.size_bytes();
  module.pCode = code.data();
  VkComputePipelineCreateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
  info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
  info.stage.pName = "main";
  info.stage.pSpecializationInfo = &numbers;
  VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT size = {};
  size.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT;
  size.requiredSubgroupSize = device.limits.subgroup_size;
  if (device.limits.subgroup_size > 1) {
    info.stage.pNext = &size;
    info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT;
  }
  info.layout = device.layouts[n_buffers];
  VK(vkCreateShaderModule(device.handle, &module, nullptr, &info.stage.module));
  Device::Pipeline made = {VK_NULL_HANDLE, device.layouts[n_buffers], device.set_layouts[n_buffers],
                           n_buffers};
  const VkResult result = vkCreateComputePipelines(device.handle, device.pipeline_cache, 1, &info,
                                                   nullptr, &made.handle);
  vkDestroyShaderModule(device.handle, info.stage.module, nullptr);
  check(result, ("pipeline " + key.first).c_str());
  set_name(device, VK_OBJECT_TYPE_PIPELINE, reinterpret_cast<uint64_t>(made.handle),
           key.first.c_str());
  return device.pipelines.emplace(std::move(key), made).first->second;
}

uint64_t free_memory(const Device& device) {
  return std::min(free_bytes(device.physical, device.memory_budget), device.limits.memory);
}

Memory::Memory(Device& on, uint64_t size, Kind kind, const char* name)
    : device(&on), bytes(std::max<uint64_t>(size, 4)) {
  // A half-made Memory is destroyed like a whole one.
  Memory made;
  made.device = device;
  made.bytes = bytes;
  made.buffer = new_vk_buffer(on, bytes, nullptr, name);
  VkMemoryRequirements needs;
  vkGetBufferMemoryRequirements(on.handle, made.buffer, &needs);
  constexpr VkMemoryPropertyFlags seen =
      VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  uint32_t type = UINT32_MAX;
  if (kind == Kind::device) {
    type = find_type(on, needs.memoryTypeBits, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT);
  } else if (kind == Kind::readback) {
    type = find_type(on, needs.memoryTypeBits, seen | VK_MEMORY_PROPERTY_HOST_CACHED_BIT);
  }
  if (type == UINT32_MAX) {
    type = find_type(on, needs.memoryTypeBits, kind == Kind::device ? 0 : seen);
  }
  VkMemoryAllocateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  info.allocationSize = needs.size;
  info.memoryTypeIndex = type;
  VK(vkAllocateMemory(on.handle, &info, nullptr, &made.memory));
  VK(vkBindBufferMemory(on.handle, made.buffer, made.memory, 0));
  if (kind != Kind::device) {
    void* at = nullptr;
    VK(vkMapMemory(on.handle, made.memory, 0, VK_WHOLE_SIZE, 0, &at));
    made.mapped = static_cast<std::byte*>(at);
  }
  *this = std::move(made);
}

Memory Memory::import(Device& on, const std::byte* host, uint64_t bytes, const char* name) {
  constexpr VkExternalMemoryHandleTypeFlagBits type =
      VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
  auto* pointer = const_cast<std::byte*>(host);  // Vulkan has no pointer to what it only reads
  VkMemoryHostPointerPropertiesEXT allowed = {};
  allowed.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT;
  if (vkGetMemoryHostPointerPropertiesEXT(on.handle, type, pointer, &allowed) != VK_SUCCESS) {
    return {};
  }
  Memory made;
  made.device = &on;
  made.bytes = bytes;
  VkExternalMemoryBufferCreateInfo external = {};
  external.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO;
  external.handleTypes = type;
  made.buffer = new_vk_buffer(on, bytes, &external, name);
  VkMemoryRequirements needs;
  vkGetBufferMemoryRequirements(on.handle, made.buffer, &needs);
  VkImportMemoryHostPointerInfoEXT import = {};
  import.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT;
  import.handleType = type;
  import.pHostPointer = pointer;
  VkMemoryAllocateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  info.pNext = &import;
  info.allocationSize = bytes;
  info.memoryTypeIndex = find_type(on, needs.memoryTypeBits & allowed.memoryTypeBits, 0);
  if (needs.size > bytes || info.memoryTypeIndex == UINT32_MAX ||
      vkAllocateMemory(on.handle, &info, nullptr, &made.memory) != VK_SUCCESS ||
      vkBindBufferMemory(on.handle, made.buffer, made.memory, 0) != VK_SUCCESS) {
    return {};
  }
  return made;
}

Memory::Memory(Memory&& other) noexcept {
  *this = std::move(other);
}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(device, other.device);
  std::swap(buffer, other.buffer);
  std::swap(memory, other.memory);
  std::swap(bytes, other.bytes);
  std::swap(mapped, other.mapped);
  return *this;
}

Memory::~Memory() {
  if (device == nullptr) return;
  vkDestroyBuffer(device->handle, buffer, nullptr);
  vkFreeMemory(device->handle, memory, nullptr);
}

}  // namespace vga::vulkan
