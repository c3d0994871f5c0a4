/// What a build without Vulkan has instead of it.
#include "vga/error.h"
#include "vulkan/devices.h"

namespace vga::vulkan {

std::vector<DeviceInfo> devices() {
  throw Error("Vulkan", "this build has none; cmake -D VGA_VULKAN=ON builds it");
}

std::unique_ptr<const vga::Device> load(size_t, Weights&, const Config&, const LayerRange&,
                                        uint64_t, const std::function<void(uint64_t, uint64_t)>&) {
  return nullptr;  // there is no device to ask for
}

}  // namespace vga::vulkan
