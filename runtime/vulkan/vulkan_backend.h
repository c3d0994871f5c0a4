#pragma once

#include <memory>

#include "compute/backend.h"
#include "vulkan/device.h"

namespace vga::vulkan {

/// A backend for one session. The tensors it is given have to be on `device`, which outlives it.
std::unique_ptr<Backend> new_backend(Device& device);

}  // namespace vga::vulkan
