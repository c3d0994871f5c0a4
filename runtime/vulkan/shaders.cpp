#include "shaders.h"

#include <algorithm>
#include <cassert>

namespace vga::vulkan {
namespace {

struct Shader {
  std::string_view name;
  std::span<const uint32_t> code;
};

#include "shaders.inc"  // written by CMake: an array for each shader, then `shaders` of them all

}  // namespace

std::span<const uint32_t> shader_code(std::string_view name) {
  const auto* found = std::ranges::find(shaders, name, &Shader::name);
  assert(found != std::end(shaders));
  return found->code;
}

}  // namespace vga::vulkan
