#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace vga::vulkan {

/// The SPIR-V of "add" or "matvec_q8_0": an op, and where it has variants, its format.
std::span<const uint32_t> shader_code(std::string_view name);

}  // namespace vga::vulkan
