#pragma once

#include <string>

#include "compute/device_choice.h"
#include "vga/error.h"

namespace vga::test {

/// Why there is no Vulkan device to test on; empty if there is one, of any kind.
inline std::string why_no_device() {
#if defined(__SANITIZE_THREAD__)
  return "the thread sanitizer takes what a driver's threads do for races";
#else
  try {
    choose_device(vulkan::devices(), {"vulkan"});
    return "";
  } catch (const Error& error) {
    return error.what();
  }
#endif
}

}  // namespace vga::test
