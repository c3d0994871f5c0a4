#pragma once

#include <span>
#include <string>
#include <string_view>

#include "vulkan/devices.h"

namespace vga {

/// What an empty ModelOptions::device means: VGA_DEVICE, else "cpu".
std::string default_device();

/// The index of the device that `wanted` means: "vulkan:N" is the N-th, a part of a name the first
/// that has it, in any case of letters. "vulkan" and "auto" are the first discrete GPU, else the
/// first integrated one, else another that is no CPU in disguise; "vulkan" takes even that if there
/// is nothing else. An Error if there is no such device or it cannot be used; `source` is who wants
/// it.
size_t choose_device(std::span<const vulkan::DeviceInfo> devices, std::string_view wanted,
                     std::string_view source = "device");

}  // namespace vga
