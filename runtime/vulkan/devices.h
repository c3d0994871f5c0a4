#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "compute/device.h"

/// The Vulkan backend as the rest of the runtime sees it. A build without Vulkan has all of this
/// too: devices() then says so.
namespace vga::vulkan {

struct DeviceInfo {
  enum class Type { discrete, integrated, virtual_gpu, cpu, other };
  std::string name;  // "AMD Radeon 780M (RADV PHOENIX)"
  Type type;
  std::string driver;  // "radv Mesa 22.3.6"
  uint64_t memory;     // bytes of its largest own heap
  uint64_t free;       // of those, bytes that nobody uses; `memory` if the driver does not tell
  std::string unfit;   // why it cannot be used; empty if it can
};

/// All devices, each once even if two drivers offer it, in the driver's order. An Error that says
/// why when there is no Vulkan here at all.
std::vector<DeviceInfo> devices();

/// Opens device `index` of devices() and gives it the weights of these layers, whose `on_device` is
/// set then. An Error before anything is copied if there is no room for them, as far as they cannot
/// be used in place, and `besides` more bytes. `progress` hears of bytes done and of all.
std::unique_ptr<const vga::Device> load(size_t index, Weights& weights, const Config& config,
                                        const LayerRange& layers, uint64_t besides,
                                        const std::function<void(uint64_t, uint64_t)>& progress);

}  // namespace vga::vulkan
