#include "vulkan/batch.h"

#include <algorithm>

namespace vga::vulkan {

void plan_rows(std::span<const BatchRow> batch, const CacheShape& shape,
               std::vector<GpuRow>& rows) {
  rows.clear();
  for (const BatchRow& row : batch) {
    const size_t place = static_cast<size_t>(row.position) % cache_span;
    rows.push_back(
        {.token = static_cast<uint32_t>(row.token),
         .lane = row.lane,
         .slot = static_cast<uint32_t>(shape.span_of(row.position) * cache_span + place)});
  }
}

void plan_tiles(std::span<const BatchRow> batch, const CacheShape& shape, size_t tile_rows,
                std::vector<GpuView>& views, std::vector<GpuTile>& tiles) {
  constexpr auto span = static_cast<int64_t>(cache_span);
  const auto n_kept = static_cast<int64_t>(shape.n_kept);
  views.clear();
  tiles.clear();
  for (size_t first = 0; first < batch.size();) {
    size_t end = first + 1;
    while (end < batch.size() && end - first < tile_rows && batch[end].lane == batch[first].lane) {
      ++end;
    }
    // In the ring the tile sees from its first row's first position to its last row's own.
    const int64_t last = batch[end - 1].position;
    const int64_t ring_first = std::max(n_kept, batch[first].first);
    const int64_t first_span = ring_first / span;
    const int64_t base = first_span * span;
    for (size_t r = first; r < end; ++r) {
      const BatchRow& row = batch[r];
      // A kept row sees nothing of the ring.
      const int64_t begin = std::max(ring_first, row.first);
      const int64_t ring_end = std::max(row.position + 1, begin);
      views.push_back({.kept_end = static_cast<uint32_t>(std::min(n_kept, row.position + 1)),
                       .begin = static_cast<uint32_t>(begin - base),
                       .end = static_cast<uint32_t>(ring_end - base)});
    }
    const auto n_spans = [](int64_t positions) {
      return static_cast<uint32_t>((positions + span - 1) / span);
    };
    tiles.push_back({.first_row = static_cast<uint32_t>(first),
                     .n_rows = static_cast<uint32_t>(end - first),
                     .lane = batch[first].lane,
                     .kept_spans = n_spans(std::min(n_kept, last + 1)),
                     .ring_spans = last < ring_first ? 0 : n_spans(last + 1 - base),
                     .ring_start = static_cast<uint32_t>(
                         first_span % static_cast<int64_t>(shape.ring_spans()))});
    first = end;
  }
}

}  // namespace vga::vulkan
