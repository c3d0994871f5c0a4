#include "vulkan/device.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "base/file.h"
#include "vga/error.h"
#include "vulkan/shaders.h"

namespace vga::vulkan {
namespace {

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

}  // namespace

void set_name(const Device& device, VkObjectType type, uint64_t object, const char* name) {
  if (!instance().validation) return;
  VkDebugUtilsObjectNameInfoEXT info = {};
  info.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_OBJECT_NAME_INFO_EXT;
  info.objectType = type;
  info.objectHandle = object;
  info.pObjectName = name;
  vkSetDebugUtilsObjectNameEXT(device.handle, &info);
}

// Once it is delegated, what is half made is destroyed like what is whole.
Device::Device(size_t index) : Device(physical_devices().at(index)) {
  const Properties p(physical);
  info = info_of(physical, p);
  if (!info.unfit.empty()) throw Error(info.name, info.unfit);
  limits = limits_of(p);
  queue_family = p.queue_family;
  tick = p.base.limits.timestampPeriod;
  // A CPU has no watchdog, and lavapipe waits for all work before it tells the time.
  if (p.timestamp_bits > 0 && info.type != DeviceInfo::Type::cpu) {
    clock_mask = UINT64_MAX >> (64 - p.timestamp_bits);
  }
  memory_types = p.memory;

  std::vector<const char*> extensions;
  if (limits.push_descriptors) extensions.push_back(VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME);
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
  lose_device_after(limits.calls);
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
  lose_device_after(UINT64_MAX);
  if (handle == VK_NULL_HANDLE) return;
  vkDeviceWaitIdle(handle);
  size_t bytes = 0;
  if (pipeline_cache != VK_NULL_HANDLE) {
    vkGetPipelineCacheData(handle, pipeline_cache, &bytes, nullptr);
  }
  if (bytes > 0 && bytes != cached_bytes) {
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

const Device::Pipeline& pipeline(Device& device, const Shader& shader, uint32_t n_buffers) {
  const std::lock_guard lock(device.mutex);
  if (const auto found = device.pipelines.find(shader); found != device.pipelines.end()) {
    return found->second;
  }
  std::string label(shader.op);
  if (shader.format) label.append(1, '_').append(name(*shader.format));
  const std::array numbers = {device.limits.workgroup_size, device.limits.subgroup_size,
                              shader.constants[0], shader.constants[1]};
  std::array<VkSpecializationMapEntry, numbers.size()> entries;
  for (uint32_t i = 0; i < entries.size(); ++i) entries[i] = {i, i * 4, 4};
  const VkSpecializationInfo constants = {static_cast<uint32_t>(entries.size()), entries.data(),
                                          sizeof numbers, numbers.data()};
  const ShaderCode code = shader_code(label, device.limits.subgroup_size > 1);
  VkShaderModuleCreateInfo module = {};
  module.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
  module.codeSize = code.spirv.size_bytes();
  module.pCode = code.spirv.data();
  VkComputePipelineCreateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
  info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
  info.stage.pName = "main";
  info.stage.pSpecializationInfo = &constants;
  VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT size = {};
  size.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT;
  size.requiredSubgroupSize = device.limits.subgroup_size;
  // Others take the size that suits them: where it is wide, registers are few.
  if (code.subgroups) {
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
  check(result, ("pipeline " + label).c_str());
  set_name(device, VK_OBJECT_TYPE_PIPELINE, reinterpret_cast<uint64_t>(made.handle), label.c_str());
  return device.pipelines.emplace(shader, made).first->second;
}

}  // namespace vga::vulkan
