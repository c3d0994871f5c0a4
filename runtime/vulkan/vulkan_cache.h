#pragma once

#include <vector>

#include "compute/backend.h"
#include "vulkan/commands.h"

namespace vga::vulkan {

/// Keys and values of each layer, head by head, as shaders/cache.glsl says; in as few pieces of
/// memory as the device allows.
class VulkanCache : public Cache {
 public:
  /// An Error if the device cannot bind the keys of one head.
  VulkanCache(Commands& commands, const CacheShape& shape);
  ~VulkanCache() override;

  enum Side : size_t { keys, values };
  /// n KV heads from `first` on, as many as heads_from() allows. Where they begin is a multiple of
  /// 512 bytes, and no device asks for more than 256.
  Range heads(size_t layer, Side side, size_t first, size_t n) const;
  /// How many KV heads from `first` on can be bound at once, with their keys and with their values.
  size_t heads_from(size_t layer, size_t first) const;
  /// As Backend has it.
  void copy_slot(size_t from_slot, size_t to_slot, int64_t length) const;

 private:
  uint64_t head_bytes() const { return shape().n_slots * shape().n_pages() * shape().page_bytes(); }
  size_t index(size_t layer, Side side, size_t head) const {
    return (2 * layer + side) * shape().n_kv_heads + head;
  }

  Commands& commands_;          // that use it
  std::vector<Memory> memory_;  // (n_layers, 2, n_kv_heads) heads
  size_t heads_at_once_;        // that can be bound
  size_t heads_of_memory_;
};

inline const VulkanCache& on_device(const Cache& cache) {
  return static_cast<const VulkanCache&>(cache);
}

/// Elements of a piece of the cache, which is 16 bytes.
constexpr size_t piece_elements(DType cache_type) {
  return cache_type == DType::f32 ? 4 : cache_type == DType::f16 ? 8 : 16;
}

}  // namespace vga::vulkan
