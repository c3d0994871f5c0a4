#include "vulkan/batch.h"

#include <algorithm>
#include <numeric>

namespace vga::vulkan {

std::vector<GpuPlace> plan_places(std::span<const BatchRow> rows, const CacheShape& shape) {
  std::vector<GpuPlace> places;
  for (const BatchRow& row : rows) {
    const size_t page = shape.page_of(row.position);
    const size_t index = static_cast<size_t>(row.position) % page_positions;
    places.push_back({row.slot, static_cast<uint32_t>(page * page_positions + index)});
  }
  return places;
}

void plan_tiles(const Batch& batch, const CacheShape& shape, size_t tile_rows,
                std::vector<GpuView>& views, std::vector<GpuTile>& tiles) {
  constexpr auto page = static_cast<int64_t>(page_positions);
  const auto n_kept = static_cast<int64_t>(shape.n_kept);
  const std::span<const BatchRow> rows = batch.rows;
  const std::span<const int64_t> first_visible = batch.first_of(shape.kind);
  views.clear();
  tiles.clear();
  for (size_t first = 0; first < rows.size();) {
    size_t end = first + 1;
    while (end < rows.size() && end - first < tile_rows && rows[end].slot == rows[first].slot) {
      ++end;
    }
    // In the ring the tile sees from its first row's first position to its last row's own.
    const int64_t last = rows[end - 1].position;
    const int64_t ring_first = std::max(n_kept, first_visible[first]);
    const int64_t first_page = ring_first / page;
    const int64_t base = first_page * page;
    for (size_t r = first; r < end; ++r) {
      // A kept row sees nothing of the ring.
      const int64_t begin = std::max(ring_first, first_visible[r]);
      const int64_t ring_end = std::max(rows[r].position + 1, begin);
      views.push_back({.kept_end = static_cast<uint32_t>(std::min(n_kept, rows[r].position + 1)),
                       .begin = static_cast<uint32_t>(begin - base),
                       .end = static_cast<uint32_t>(ring_end - base)});
    }
    const auto n_pages = [](int64_t positions) {
      return static_cast<uint32_t>((positions + page - 1) / page);
    };
    tiles.push_back({.first_row = static_cast<uint32_t>(first),
                     .n_rows = static_cast<uint32_t>(end - first),
                     .slot = rows[first].slot,
                     .kept_pages = n_pages(std::min(n_kept, last + 1)),
                     .ring_pages = last < ring_first ? 0 : n_pages(last + 1 - base),
                     .ring_start = static_cast<uint32_t>(
                         first_page % static_cast<int64_t>(shape.ring_pages()))});
    first = end;
  }
}

void plan_runs(std::span<const BatchRow> rows, std::vector<uint32_t>& of_runs,
               std::vector<GpuRun>& runs) {
  of_runs.resize(rows.size());
  std::iota(of_runs.begin(), of_runs.end(), 0);
  std::ranges::stable_sort(of_runs, {}, [&](uint32_t row) { return rows[row].slot; });
  runs.clear();
  for (size_t i = 0; i < of_runs.size(); ++i) {
    const BatchRow& row = rows[of_runs[i]];
    if (runs.empty() || runs.back().slot != row.slot) {
      runs.push_back({.slot = row.slot,
                      .first = static_cast<uint32_t>(i),
                      .n_rows = 0,
                      .is_first = row.position == 0 ? 1u : 0u});
    }
    ++runs.back().n_rows;
  }
}

void Staged::begin(Device& device, const Batch& batch) {
  uint64_t bytes = 0;
  std::vector<Range*> ranges;
  const auto place = [&](Range& range, uint64_t size) {
    // Something is bound where there is nothing, too.
    range = {VK_NULL_HANDLE, align_up(bytes, device.limits.storage_alignment),
             std::max<uint64_t>(size, 4)};
    bytes = range.offset + range.bytes;
    ranges.push_back(&range);
  };
  const size_t n_rows = batch.rows.size();
  place(rows, n_rows * sizeof(GpuRow));
  place(wanted, batch.wanted.size_bytes());
  place(runs, n_rows * sizeof(GpuRun));
  place(run_rows, n_rows * sizeof(uint32_t));
  for (size_t i = 0; i < max_rope_tables; ++i) {
    place(angles[i], batch.angles[i].size_bytes());
    place(kept_angles[i], batch.kept_angles[i].size_bytes());
  }
  kinds.resize(batch.n_kinds());
  for (Kind& kind : kinds) {
    place(kind.places, n_rows * sizeof(GpuPlace));
    place(kind.views, n_rows * sizeof(GpuView));
    place(kind.tiles, n_rows * sizeof(GpuTile));
  }
  if (memory.bytes < bytes) memory = Memory(device, bytes, Memory::Kind::shared, "batch");
  for (Range* range : ranges) range->buffer = memory.buffer;

  std::vector<GpuRow> gpu_rows;
  for (const BatchRow& row : batch.rows) {
    gpu_rows.push_back({static_cast<uint32_t>(row.token), static_cast<uint32_t>(row.position)});
  }
  fill(rows, std::as_bytes(std::span(gpu_rows)));
  fill(wanted, std::as_bytes(batch.wanted));
  for (size_t i = 0; i < max_rope_tables; ++i) {
    fill(angles[i], std::as_bytes(batch.angles[i]));
    fill(kept_angles[i], std::as_bytes(batch.kept_angles[i]));
  }
}

void Staged::fill(const Range& to, std::span<const std::byte> bytes) const {
  std::ranges::copy(bytes, memory.mapped + to.offset);
}

}  // namespace vga::vulkan
