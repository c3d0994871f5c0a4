#pragma once

#include <string>

#include <volk.h>

namespace vga::vulkan {

constexpr uint32_t api_version = VK_API_VERSION_1_2;

/// The connection to the loader and its drivers.
struct Instance {
  Instance();
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;
  ~Instance();

  VkInstance handle = VK_NULL_HANDLE;
  VkDebugUtilsMessengerEXT debug = VK_NULL_HANDLE;
  bool validation = false;
  std::string why_not;  // there is no Vulkan here; empty if there is
};

/// The one of the process, opened when first asked for.
const Instance& instance();

/// An Error that names the call if it failed: VK(vkCreateFence(...)).
void check(VkResult result, const char* call);
#define VK(call) \
  ::vga::vulkan::check(::vga::vulkan::is_lost() ? VK_ERROR_DEVICE_LOST : (call), #call)

/// For tests: of the calls in VK() from now on so many are made, for those behind them the device
/// is lost. UINT64_MAX ends that.
void lose_device_after(uint64_t n_calls);
bool is_lost();

}  // namespace vga::vulkan
