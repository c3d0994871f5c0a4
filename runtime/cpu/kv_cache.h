#pragma once

#include "compute/backend.h"
#include "cpu/large_memory.h"

namespace vga::cpu {

/// Keys and values in host memory: (n_lanes, n_spans, n_layers, n_kv_heads, 2) spans, so that
/// memory is taken as a sequence grows.
class CpuCache : public Cache {
 public:
  explicit CpuCache(const CacheShape& shape) : Cache(shape), memory_(large_memory(shape.bytes())) {}

  std::byte* keys(size_t lane, size_t span, size_t layer, size_t head) const {
    const CacheShape& s = shape();
    const size_t index = ((lane * s.n_spans() + span) * s.n_layers + layer) * s.n_kv_heads + head;
    return memory_.get() + 2 * index * s.span_bytes();
  }
  std::byte* values(size_t lane, size_t span, size_t layer, size_t head) const {
    return keys(lane, span, layer, head) + shape().span_bytes();
  }

 private:
  LargeMemory memory_;
};

}  // namespace vga::cpu
