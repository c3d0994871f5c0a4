#pragma once

#include <vector>

#include "compute/backend.h"
#include "vulkan/batch.h"
#include "vulkan/vulkan_buffer.h"
#include "vulkan/vulkan_cache.h"

namespace vga::vulkan {

/// Attention of one backend: shares the rows of a batch out among workgroups, in dispatches that
/// are not too long for a device.
class VulkanAttention {
 public:
  VulkanAttention(Device& device, Commands& commands) : device_(device), commands_(commands) {}

  /// Gets ready for a cache, of a kind that it has not been told of or instead of that one. An
  /// Error if its heads are too large.
  void prepare(const CacheShape& shape);
  /// Starts a batch, which stays valid as Backend::begin() says; fills what is staged of its kinds.
  void begin(const Batch& batch, const Staged& staged);

  void write_cache(const VulkanCache& cache, size_t layer, const Buffer& k, const Buffer& v,
                   const Buffer* gate);
  void attend(const Buffer& q, const Buffer* q_kept, const VulkanCache& cache, size_t layer,
              const AttendSpec& spec, const Buffer* gate, Buffer& out);

 private:
  /// What there is of a batch in layers of one kind.
  struct Kind {
    CacheShape shape;
    size_t n_queries;      // that a workgroup's shared memory holds
    size_t tile_rows = 0;  // that the tiles are made for; 0: none are
    std::vector<GpuView> views = {};
    std::vector<GpuTile> tiles = {};
  };
  /// The arguments of attend().
  struct Call {
    const Buffer& q;
    const Buffer* q_kept;
    const VulkanCache& cache;
    size_t layer;
    const AttendSpec& spec;
    const Buffer* gate;
    Buffer& out;
  };
  /// Of a call, what one dispatch does.
  struct Part {
    size_t first_tile;
    size_t head;
    size_t n_heads;
    size_t group;  // query heads of a KV head
    size_t n_queries;
    size_t n_items;
    size_t pages;
    double cost;
  };

  Kind& kind_of(const VulkanCache& cache);
  Range current(const Buffer& x) const { return on_device(x).rows_from(0, batch_.rows.size()); }
  void make_tiles(Kind& kind, size_t tile_rows) const;
  void attend(const Call& call, const Part& part);

  Device& device_;
  Commands& commands_;
  std::vector<Kind> kinds_;
  Memory partials_;  // (n_items, n_splits, n_queries) sums of attention
  Batch batch_;
  const Staged* staged_ = nullptr;
};

}  // namespace vga::vulkan
