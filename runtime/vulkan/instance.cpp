#include "vulkan/instance.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "vga/error.h"

namespace vga::vulkan {
namespace {

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

}  // namespace

Instance::Instance() {
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

Instance::~Instance() {
  if (debug != VK_NULL_HANDLE) vkDestroyDebugUtilsMessengerEXT(handle, debug, nullptr);
  if (handle != VK_NULL_HANDLE) vkDestroyInstance(handle, nullptr);
}

const Instance& instance() {
  static const Instance the_instance;
  return the_instance;
}

namespace {
std::atomic<uint64_t> calls_left{UINT64_MAX};
}

void lose_device_after(uint64_t n_calls) {
  calls_left = n_calls;
}

bool is_lost() {
  uint64_t left = calls_left;
  while (left > 0 && left < UINT64_MAX && !calls_left.compare_exchange_weak(left, left - 1)) {
  }
  return left == 0;
}

void check(VkResult result, const char* call) {
  if (result == VK_SUCCESS) return;
  const std::string_view text = call;
  const std::string what = std::string(text.substr(0, text.find('('))) + ": " + result_text(result);
  if (result == VK_ERROR_DEVICE_LOST) throw DeviceLost("Vulkan", what);
  throw Error("Vulkan", what);
}

}  // namespace vga::vulkan
