#include "vulkan/vulkan_attention.h"

#include <algorithm>
#include <string>

#include "vga/error.h"
#include "vulkan/grid.h"

namespace vga::vulkan {
namespace {

constexpr size_t most_queries = 8;               // that a workgroup takes
constexpr size_t most_elements = 512;            // of a head: four for each thread of attend.comp
constexpr size_t wanted_groups = 128;            // workgroups that keep a device busy
constexpr uint64_t shared_bytes = 16384 - 1024;  // that every device has, less reduce.glsl's
static_assert(most_elements == 4 * Limits::workgroup_size);

}  // namespace

void VulkanAttention::prepare(const CacheShape& shape) {
  if (shape.head_dim > most_elements) {
    throw Error("attention.key_length", "a Vulkan device takes heads of up to " +
                                            std::to_string(most_elements) + " elements, found " +
                                            std::to_string(shape.head_dim));
  }
  const uint64_t query_bytes =
      sizeof(float) * (shape.padded_dim() + std::max(page_positions, shape.padded_dim()) + 3);
  const size_t n_queries = std::min<size_t>(most_queries, shared_bytes / query_bytes);
  std::erase_if(kinds_, [&](const Kind& k) { return k.shape.kind == shape.kind; });
  kinds_.push_back({.shape = shape, .n_queries = n_queries});
  const uint64_t bytes = 2 * wanted_groups * n_queries * (shape.padded_dim() + 4) * sizeof(float);
  if (partials_.bytes >= bytes) return;
  finish(commands_);
  partials_ = Memory(device_, bytes, Memory::Kind::device, "partial sums of attention");
}

VulkanAttention::Kind& VulkanAttention::kind_of(const VulkanCache& cache) {
  return *std::ranges::find(kinds_, cache.shape().kind, [](const Kind& k) { return k.shape.kind; });
}

void VulkanAttention::begin(const Batch& batch, const Staged& staged) {
  batch_ = batch;
  staged_ = &staged;
  for (Kind& kind : kinds_) {
    const std::vector<GpuPlace> places = plan_places(batch.rows, kind.shape);
    staged.fill(staged.kinds[kind.shape.kind].places, std::as_bytes(std::span(places)));
    kind.tile_rows = 0;
  }
}

/// What a workgroup takes is known once the number of query heads is: the first layer of a kind
/// makes the tiles.
void VulkanAttention::make_tiles(Kind& kind, size_t tile_rows) const {
  if (kind.tile_rows == tile_rows) return;
  kind.tile_rows = tile_rows;
  plan_tiles(batch_, kind.shape, tile_rows, kind.views, kind.tiles);
  const Staged::Kind& to = staged_->kinds[kind.shape.kind];
  staged_->fill(to.views, std::as_bytes(std::span(kind.views)));
  staged_->fill(to.tiles, std::as_bytes(std::span(kind.tiles)));
}

void VulkanAttention::write_cache(const VulkanCache& c, size_t layer, const Buffer& k,
                                  const Buffer& v, const Buffer* gate) {
  struct Push {
    uint32_t n_rows, kv_heads, first_head, n_heads, n_slots, n_pages, are_values, gate_width;
  };
  const CacheShape& s = c.shape();
  const size_t n_rows = batch_.rows.size();
  const auto& p = pipeline(device_, {"write_cache", s.type, {u32(s.head_dim)}}, 4);
  const size_t pieces = s.padded_dim() / piece_elements(s.type);
  for (size_t head = 0, n = 0; head < s.n_kv_heads; head += n) {
    n = c.heads_from(layer, head);
    for (const auto side : {VulkanCache::keys, VulkanCache::values}) {
      const Buffer& x = side == VulkanCache::keys ? k : v;
      const Buffer* x_gate = side == VulkanCache::keys ? nullptr : gate;
      dispatch(commands_, p,
               {staged_->kinds[s.kind].places, current(x), current(x_gate != nullptr ? *x_gate : x),
                c.heads(layer, side, head, n)},
               Push{u32(n_rows), u32(s.n_kv_heads), u32(head), u32(n), u32(s.n_slots),
                    u32(s.n_pages()), u32(side), gate_width(x, x_gate)},
               threads(n_rows * n * pieces));
    }
  }
}

void VulkanAttention::attend(const Buffer& q, const Buffer* q_kept, const VulkanCache& cache,
                             size_t layer, const AttendSpec& spec, const Buffer* gate,
                             Buffer& out) {
  const CacheShape& s = cache.shape();
  Kind& kind = kind_of(cache);
  const size_t group = q.cols() / s.head_dim / s.n_kv_heads;
  make_tiles(kind, std::max<size_t>(1, kind.n_queries / group));
  const std::vector<GpuTile>& tiles = kind.tiles;
  const size_t longest = std::ranges::max(tiles, {}, &GpuTile::n_rows).n_rows;
  const size_t n_queries = std::min(kind.n_queries, group * longest);
  const size_t blocks = (group - 1) / n_queries + 1;
  // What a tile costs for one KV head, in multiply-adds, and how many heads one dispatch may take.
  const auto cost_of = [&](const GpuTile& t) {
    return 2.0 * static_cast<double>((t.kept_pages + t.ring_pages) * page_positions * blocks *
                                     n_queries * s.head_dim);
  };
  const double worst = cost_of(*std::ranges::max_element(tiles, {}, cost_of));
  const auto heads_of_dispatch = static_cast<size_t>(std::max(1.0, commands_.max_cost / worst));
  for (size_t head = 0, n_heads = 0; head < s.n_kv_heads; head += n_heads) {
    n_heads = std::min(cache.heads_from(layer, head), heads_of_dispatch);
    for (size_t first = 0; first < tiles.size();) {
      // As many tiles as one dispatch may take.
      double cost = 0;
      size_t pages = 0;  // of the longest
      size_t end = first;
      for (; end < tiles.size(); ++end) {
        const GpuTile& t = tiles[end];
        const double tile_cost = static_cast<double>(n_heads) * cost_of(t);
        if (end > first && cost + tile_cost > commands_.max_cost) break;
        cost += tile_cost;
        pages = std::max<size_t>(pages, t.kept_pages + t.ring_pages);
      }
      attend({q, q_kept, cache, layer, spec, gate, out},
             {.first_tile = first,
              .head = head,
              .n_heads = n_heads,
              .group = group,
              .n_queries = n_queries,
              .n_items = (end - first) * n_heads * blocks,
              .pages = pages,
              .cost = cost});
      first = end;
    }
  }
}

void VulkanAttention::attend(const Call& call, const Part& part) {
  struct Push {
    uint32_t n_items, n_splits, group_size, first_head, n_heads, kv_heads, n_slots, kept_pages,
        ring_pages;
    float scale, cap;
    uint32_t first_tile, gate_width;
  };
  const VulkanCache& c = call.cache;
  const CacheShape& s = c.shape();
  const Staged::Kind& staged = staged_->kinds[s.kind];
  // Few workgroups over many pages share them.
  const size_t n_splits =
      part.n_items >= wanted_groups
          ? 1
          : std::min<size_t>(part.pages, (wanted_groups - 1) / part.n_items + 1);
  const std::array constants = {u32(s.head_dim), u32(part.n_queries)};
  const Push push = {u32(part.n_items),
                     u32(n_splits),
                     u32(part.group),
                     u32(part.head),
                     u32(part.n_heads),
                     u32(s.n_kv_heads),
                     u32(s.n_slots),
                     u32(s.kept_pages()),
                     u32(s.ring_pages()),
                     call.spec.scale,
                     call.spec.cap,
                     u32(part.first_tile),
                     gate_width(call.q, call.gate)};
  const Range q = current(call.q);
  const Range gates = call.gate != nullptr ? current(*call.gate) : q;
  dispatch(commands_, pipeline(device_, {"attend", s.type, constants}, 8),
           {gates, q, call.q_kept != nullptr ? current(*call.q_kept) : q,
            c.heads(call.layer, VulkanCache::keys, part.head, part.n_heads),
            c.heads(call.layer, VulkanCache::values, part.head, part.n_heads), staged.views,
            staged.tiles, n_splits > 1 ? whole(partials_) : current(call.out)},
           push, grid(part.n_items, n_splits), part.cost);
  if (n_splits == 1) return;
  dispatch(commands_, pipeline(device_, {"attend_merge", {}, constants}, 4),
           {gates, whole(partials_), staged.tiles, current(call.out)}, push,
           threads(part.n_items * part.n_queries * s.padded_dim() / 4));
}

}  // namespace vga::vulkan
