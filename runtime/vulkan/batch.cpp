#include "vulkan/batch.h"

#include <algorithm>

namespace vga::vulkan {

void plan_rows(std::span<const BatchRow> batch, const CacheShape& shape,
               std::vector<GpuRow>& rows) {
  rows.clear();
  for (const BatchRow& row : batch) {
    const size_t in_page = static_cast<size_t>(row.position) % page_positions;
    rows.push_back(
        {.token = static_cast<uint32_t>(row.token),
         .slot = row.slot,
         .place = static_cast<uint32_t>(shape.page_of(row.position) * page_positions + in_page)});
  }
}

void plan_tiles(std::span<const BatchRow> batch, std::span<const int64_t> first_visible,
                const CacheShape& shape, size_t tile_rows, std::vector<GpuView>& views,
                std::vector<GpuTile>& tiles) {
  constexpr auto page = static_cast<int64_t>(page_positions);
  const auto n_kept = static_cast<int64_t>(shape.n_kept);
  views.clear();
  tiles.clear();
  for (size_t first = 0; first < batch.size();) {
    size_t end = first + 1;
    while (end < batch.size() && end - first < tile_rows && batch[end].slot == batch[first].slot) {
      ++end;
    }
    // In the ring the tile sees from its first row's first position to its last row's own.
    const int64_t last = batch[end - 1].position;
    const int64_t ring_first = std::max(n_kept, first_visible[first]);
    const int64_t first_page = ring_first / page;
    const int64_t base = first_page * page;
    for (size_t r = first; r < end; ++r) {
      const BatchRow& row = batch[r];
      // A kept row sees nothing of the ring.
      const int64_t begin = std::max(ring_first, first_visible[r]);
      const int64_t ring_end = std::max(row.position + 1, begin);
      views.push_back({.kept_end = static_cast<uint32_t>(std::min(n_kept, row.position + 1)),
                       .begin = static_cast<uint32_t>(begin - base),
                       .end = static_cast<uint32_t>(ring_end - base)});
    }
    const auto n_pages = [](int64_t positions) {
      return static_cast<uint32_t>((positions + page - 1) / page);
    };
    tiles.push_back({.first_row = static_cast<uint32_t>(first),
                     .n_rows = static_cast<uint32_t>(end - first),
                     .slot = batch[first].slot,
                     .kept_pages = n_pages(std::min(n_kept, last + 1)),
                     .ring_pages = last < ring_first ? 0 : n_pages(last + 1 - base),
                     .ring_start = static_cast<uint32_t>(
                         first_page % static_cast<int64_t>(shape.ring_pages()))});
    first = end;
  }
}

}  // namespace vga::vulkan
