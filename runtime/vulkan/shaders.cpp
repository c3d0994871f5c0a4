#include "vulkan/shaders.h"

#include <algorithm>
#include <cassert>

namespace vga::vulkan {
namespace {

struct Shader {
  std::string_view name;
  std::span<const uint32_t> spirv;
  std::span<const uint32_t> with_subgroups = {};  // none: the op has no use for them
};

#include "shaders.inc"  // written by CMake: an array for each shader, then `shaders` of them all

}  // namespace

ShaderCode shader_code(std::string_view name, bool subgroups) {
  const auto* found = std::ranges::find(shaders, name, &Shader::name);
  assert(found != std::end(shaders));
  if (subgroups && !found->with_subgroups.empty()) return {found->with_subgroups, true};
  return {found->spirv, false};
}

}  // namespace vga::vulkan
