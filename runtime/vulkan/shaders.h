#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace vga::vulkan {

struct ShaderCode {
  std::span<const uint32_t> spirv;
  bool subgroups;  // it asks for subgroup arithmetic
};

/// The code of "add" or "matvec_q8_0": an op, and where it has variants, its format. It uses
/// `subgroups` only if they can be relied on.
ShaderCode shader_code(std::string_view name, bool subgroups);

}  // namespace vga::vulkan
