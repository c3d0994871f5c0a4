#pragma once

#include <cstdint>
#include <vector>

#include "compute/backend.h"

/// What the shaders are told of a batch; shaders/batch.glsl reads it.
namespace vga::vulkan {

struct GpuRow {
  uint32_t token;
  uint32_t slot;
  uint32_t place;  // of its slot, where its keys and values lie
};

/// What a row sees.
struct GpuView {
  uint32_t kept_end;  // the kept positions [0, kept_end)
  // and these of the ring, counted from the first position of its tile's first page
  uint32_t begin;
  uint32_t end;
};

/// Rows that follow each other in one slot, whose queries a workgroup takes together.
struct GpuTile {
  uint32_t first_row;
  uint32_t n_rows;
  uint32_t slot;
  uint32_t kept_pages;  // that any of them sees
  uint32_t ring_pages;
  uint32_t ring_start;  // where in the ring the first of those lies
};

/// Fills `rows`.
void plan_rows(std::span<const BatchRow> batch, const CacheShape& shape, std::vector<GpuRow>& rows);

/// Fills `views` of the rows, and `tiles` of at most `tile_rows` of them.
void plan_tiles(std::span<const BatchRow> batch, std::span<const int64_t> first_visible,
                const CacheShape& shape, size_t tile_rows, std::vector<GpuView>& views,
                std::vector<GpuTile>& tiles);

}  // namespace vga::vulkan
