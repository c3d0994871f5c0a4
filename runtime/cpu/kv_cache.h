#pragma once

#include "compute/backend.h"
#include "cpu/large_memory.h"

namespace vga::cpu {

/// Keys and values in host memory: (n_slots, n_pages, n_layers, n_kv_heads, 2) pages, so that
/// memory is taken as a sequence grows.
class CpuCache : public Cache {
 public:
  explicit CpuCache(const CacheShape& shape) : Cache(shape), memory_(large_memory(shape.bytes())) {}

  std::byte* keys(size_t slot, size_t page, size_t layer, size_t head) const {
    const CacheShape& s = shape();
    const size_t index = ((slot * s.n_pages() + page) * s.n_layers + layer) * s.n_kv_heads + head;
    return memory_.get() + 2 * index * s.page_bytes();
  }
  /// All layers and heads of a page.
  size_t whole_page_bytes() const {
    return shape().n_layers * shape().n_kv_heads * 2 * shape().page_bytes();
  }
  std::byte* values(size_t slot, size_t page, size_t layer, size_t head) const {
    return keys(slot, page, layer, head) + shape().page_bytes();
  }

 private:
  LargeMemory memory_;
};

}  // namespace vga::cpu
