#include "vulkan/memory.h"

#include <algorithm>
#include <string>
#include <utility>

#include <sys/mman.h>

#include "vga/error.h"

namespace vga::vulkan {
namespace {

/// The first memory type, among those a buffer may have, with all of `wanted`, or UINT32_MAX.
uint32_t find_type(const Device& device, uint32_t allowed, VkMemoryPropertyFlags wanted) {
  for (uint32_t i = 0; i < device.memory_types.memoryTypeCount; ++i) {
    const bool has = (device.memory_types.memoryTypes[i].propertyFlags & wanted) == wanted;
    if (has && (allowed >> i & 1) != 0) return i;
  }
  return UINT32_MAX;
}

VkBuffer new_vk_buffer(const Device& device, uint64_t bytes, const void* next, const char* name) {
  VkBufferCreateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  info.pNext = next;
  info.size = bytes;
  info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
               VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  VkBuffer buffer = VK_NULL_HANDLE;
  VK(vkCreateBuffer(device.handle, &info, nullptr, &buffer));
  set_name(device, VK_OBJECT_TYPE_BUFFER, reinterpret_cast<uint64_t>(buffer), name);
  return buffer;
}

}  // namespace

Memory::Memory(Device& on, uint64_t size, Kind kind, const char* name)
    : device(&on), bytes(std::max<uint64_t>(size, 4)) {
  if (bytes > on.limits.allocation) {
    throw Error("Vulkan", std::string(name) + ": wanted " + std::to_string(bytes) +
                              " bytes at once, the device gives " +
                              std::to_string(on.limits.allocation));
  }
  // A half-made Memory is destroyed like a whole one.
  Memory made;
  made.device = device;
  made.bytes = bytes;
  made.buffer = new_vk_buffer(on, bytes, nullptr, name);
  VkMemoryRequirements needs;
  vkGetBufferMemoryRequirements(on.handle, made.buffer, &needs);
  constexpr VkMemoryPropertyFlags seen =
      VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  uint32_t type = UINT32_MAX;
  if (kind == Kind::device) {
    type = find_type(on, needs.memoryTypeBits, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT);
  } else if (kind == Kind::shared) {
    type = find_type(on, needs.memoryTypeBits, seen | VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT);
  } else if (kind == Kind::readback) {
    type = find_type(on, needs.memoryTypeBits, seen | VK_MEMORY_PROPERTY_HOST_CACHED_BIT);
  }
  if (type == UINT32_MAX) {
    type = find_type(on, needs.memoryTypeBits, kind == Kind::device ? 0 : seen);
  }
  VkMemoryAllocateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  info.allocationSize = needs.size;
  info.memoryTypeIndex = type;
  if (kind == Kind::device) {
    made.taken = needs.size;
    on.taken += needs.size;
    if (on.taken > on.limits.memory) check(VK_ERROR_OUT_OF_DEVICE_MEMORY, "vkAllocateMemory");
  }
  VK(vkAllocateMemory(on.handle, &info, nullptr, &made.memory));
  VK(vkBindBufferMemory(on.handle, made.buffer, made.memory, 0));
  if (kind != Kind::device) {
    void* at = nullptr;
    VK(vkMapMemory(on.handle, made.memory, 0, VK_WHOLE_SIZE, 0, &at));
    made.mapped = static_cast<std::byte*>(at);
  }
  *this = std::move(made);
}

Memory Memory::import(Device& on, const std::byte* host, uint64_t bytes, const char* name) {
  constexpr VkExternalMemoryHandleTypeFlagBits type =
      VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
  auto* pointer = const_cast<std::byte*>(host);  // Vulkan has no pointer to what it only reads
  // Nor has Linux: i915 takes pages that may not be written, and loses the device when it uses
  // them. A mapped file is a private mapping, of which a copy is written if any.
  if (::mprotect(pointer, bytes, PROT_READ | PROT_WRITE) != 0) return {};
  VkMemoryHostPointerPropertiesEXT allowed = {};
  allowed.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT;
  if (vkGetMemoryHostPointerPropertiesEXT(on.handle, type, pointer, &allowed) != VK_SUCCESS) {
    return {};
  }
  Memory made;
  made.device = &on;
  made.bytes = bytes;
  VkExternalMemoryBufferCreateInfo external = {};
  external.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO;
  external.handleTypes = type;
  made.buffer = new_vk_buffer(on, bytes, &external, name);
  VkMemoryRequirements needs;
  vkGetBufferMemoryRequirements(on.handle, made.buffer, &needs);
  VkImportMemoryHostPointerInfoEXT import = {};
  import.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT;
  import.handleType = type;
  import.pHostPointer = pointer;
  VkMemoryAllocateInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  info.pNext = &import;
  info.allocationSize = bytes;
  info.memoryTypeIndex = find_type(on, needs.memoryTypeBits & allowed.memoryTypeBits, 0);
  if (needs.size > bytes || info.memoryTypeIndex == UINT32_MAX ||
      vkAllocateMemory(on.handle, &info, nullptr, &made.memory) != VK_SUCCESS ||
      vkBindBufferMemory(on.handle, made.buffer, made.memory, 0) != VK_SUCCESS) {
    return {};
  }
  return made;
}

Memory::Memory(Memory&& other) noexcept {
  *this = std::move(other);
}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(device, other.device);
  std::swap(buffer, other.buffer);
  std::swap(memory, other.memory);
  std::swap(bytes, other.bytes);
  std::swap(taken, other.taken);
  std::swap(mapped, other.mapped);
  return *this;
}

Memory::~Memory() {
  if (device == nullptr) return;
  vkDestroyBuffer(device->handle, buffer, nullptr);
  vkFreeMemory(device->handle, memory, nullptr);
  device->taken -= taken;
}

}  // namespace vga::vulkan
