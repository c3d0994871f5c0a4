#include "vulkan/vulkan_cache.h"

#include <algorithm>
#include <string>

#include "vga/error.h"

namespace vga::vulkan {

VulkanCache::VulkanCache(Commands& commands, const CacheShape& shape)
    : Cache(shape), commands_(commands) {
  const Limits& limits = commands.device.limits;
  heads_at_once_ = limits.storage_range / head_bytes();
  if (heads_at_once_ == 0) {
    throw Error("cache", "one head takes " + std::to_string(head_bytes()) +
                             " bytes, the device binds " + std::to_string(limits.storage_range) +
                             "; wanted a shorter context");
  }
  heads_of_memory_ = limits.allocation / head_bytes();
  const size_t n_heads = 2 * shape.n_layers * shape.n_kv_heads;
  for (size_t head = 0; head < n_heads; head += heads_of_memory_) {
    const size_t n = std::min(heads_of_memory_, n_heads - head);
    memory_.emplace_back(commands.device, n * head_bytes(), Memory::Kind::device, "cache");
  }
}

VulkanCache::~VulkanCache() {
  finish(commands_);
}

Range VulkanCache::heads(size_t layer, Side side, size_t first, size_t n) const {
  const size_t head = index(layer, side, first);
  return {memory_[head / heads_of_memory_].buffer, head % heads_of_memory_ * head_bytes(),
          n * head_bytes()};
}

size_t VulkanCache::heads_from(size_t layer, size_t first) const {
  size_t n = std::min(heads_at_once_, shape().n_kv_heads - first);
  for (const Side side : {keys, values}) {
    n = std::min(n, heads_of_memory_ - index(layer, side, first) % heads_of_memory_);
  }
  return n;
}

void VulkanCache::copy_slot(size_t from_slot, size_t to_slot, int64_t length) const {
  const uint64_t slot_bytes = shape().n_pages() * shape().page_bytes();
  for (const Memory& memory : memory_) {
    std::vector<VkBufferCopy> parts;
    for (uint64_t head = 0; head < memory.bytes; head += head_bytes()) {
      for (const auto& [first, n] : shape().pages_before(length)) {
        const uint64_t at = head + first * shape().page_bytes();
        if (n > 0) {
          parts.push_back(
              {at + from_slot * slot_bytes, at + to_slot * slot_bytes, n * shape().page_bytes()});
        }
      }
    }
    if (!parts.empty()) copy_within(commands_, whole(memory), parts);
  }
}

}  // namespace vga::vulkan
