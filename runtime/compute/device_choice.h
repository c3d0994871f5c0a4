#pragma once

#include <span>
#include <string>
#include <string_view>

#include "vulkan/devices.h"

namespace vga {

/// A device that somebody asked for, and who: an option, or an environment variable.
struct WantedDevice {
  std::string name;
  std::string_view source = "device";
};
/// What ModelOptions::device says; if that is empty VGA_DEVICE, else "cpu".
WantedDevice wanted_device(std::string_view option = {});

/// The index of the device that `wanted` means: "vulkan:N" is the N-th, a part of a name the first
/// that has it, in any case of letters. "vulkan" and "auto" are the first discrete GPU, else the
/// first integrated one, else another that is no CPU in disguise; "vulkan" takes even that if there
/// is nothing else. An Error, which names the source, if there is no such device or it cannot be
/// used.
size_t choose_device(std::span<const vulkan::DeviceInfo> devices, const WantedDevice& wanted);

}  // namespace vga
