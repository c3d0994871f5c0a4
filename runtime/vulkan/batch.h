#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "compute/backend.h"
#include "vulkan/memory.h"

/// What the shaders are told of a batch; shaders/batch.glsl reads it.
namespace vga::vulkan {

struct GpuRow {
  uint32_t token;
  uint32_t position;
};

/// Where a row's keys and values lie.
struct GpuPlace {
  uint32_t slot;
  uint32_t position;  // in its slot
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

/// The rows of one slot, in their order.
struct GpuRun {
  uint32_t slot;
  uint32_t first;  // of its rows in the list of all
  uint32_t n_rows;
  uint32_t is_first;  // of its sequence: nothing is remembered yet
};

/// Where the rows lie in a cache.
std::vector<GpuPlace> plan_places(std::span<const BatchRow> rows, const CacheShape& shape);

/// Fills `views` of the rows in a cache, and `tiles` of at most `tile_rows` of them.
void plan_tiles(const Batch& batch, const CacheShape& shape, size_t tile_rows,
                std::vector<GpuView>& views, std::vector<GpuTile>& tiles);

/// Fills `runs` slot by slot, ascending, and `of_runs` with the numbers of their rows.
void plan_runs(std::span<const BatchRow> rows, std::vector<uint32_t>& of_runs,
               std::vector<GpuRun>& runs);

/// What the host writes of a batch, where the device reads it.
struct Staged {
  /// In layers of one kind.
  struct Kind {
    Range places, views, tiles;
  };
  Memory memory;
  Range rows, wanted;
  Range runs, run_rows;  // of the slots
  std::array<Range, max_rope_tables> angles, kept_angles;
  std::vector<Kind> kinds;
  uint64_t last_use = 0;  // the submission that a batch ended with, or a later one

  /// Makes room for all of it and fills in what the batch says; kinds and runs are left to be
  /// filled.
  void begin(Device& device, const Batch& batch);
  void fill(const Range& to, std::span<const std::byte> bytes) const;
};

}  // namespace vga::vulkan
