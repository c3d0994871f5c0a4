#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "../backend.h"

namespace vga::cpu {

/// Keys and values in host memory, each (n_layers, n_lanes, n_kv_heads, n_spans) spans: what one
/// head attends to lies in one piece. calloc'ed, so spans that are never used take no memory.
class CpuCache : public Cache {
 public:
  explicit CpuCache(const CacheShape& shape)
      : Cache(shape), data_(static_cast<std::byte*>(std::calloc(shape.bytes(), 1))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }

  /// The spans of one head, n_spans() of them.
  std::byte* keys(size_t layer, size_t lane, size_t head) const {
    const CacheShape& s = shape();
    return data_.get() +
           ((layer * s.n_lanes + lane) * s.n_kv_heads + head) * s.n_spans() * s.span_bytes();
  }
  std::byte* values(size_t layer, size_t lane, size_t head) const {
    return keys(layer, lane, head) + shape().bytes() / 2;
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace vga::cpu
