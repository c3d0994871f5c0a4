#include "cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace vga::cpu {
namespace {

/// Query heads [first, first + n) of one KV head; no more than attend() takes at a time.
struct HeadBlock {
  size_t kv_head;
  size_t first;
  size_t n;
};

HeadBlock head_block(size_t index, size_t group) {
  const size_t per_kv_head = (group - 1) / attend_queries + 1;
  const size_t kv_head = index / per_kv_head;
  const size_t offset = index % per_kv_head * attend_queries;
  return {kv_head, kv_head * group + offset, std::min(attend_queries, group - offset)};
}

}  // namespace

void apply_gate(std::span<float> x, std::span<const float> gates) {
  if (gates.size() == x.size()) {
    for (size_t i = 0; i < x.size(); ++i) x[i] *= gates[i];
    return;
  }
  const size_t head_dim = x.size() / gates.size();
  for (size_t head = 0; head < gates.size(); ++head) {
    for (float& element : x.subspan(head * head_dim, head_dim)) element *= gates[head];
  }
}

/// Rows [row, row + n_rows) of one slot and the pages that any of them sees: kept ones, then those
/// of the ring, counted by position from that of position 0 on.
struct Attention::Tile {
  size_t row;
  size_t n_rows;
  size_t kept_pages;
  size_t ring_begin;
  size_t ring_end;

  size_t n_pages() const { return kept_pages + ring_end - ring_begin; }
};

/// What some queries got from some pages, as attend() leaves it: weighted values relative to the
/// highest score.
struct Attention::Partial {
  float* highest;  // (n_queries)
  float* total;    // (n_queries)
  float* out;      // (n_queries, head_dim)

  static size_t size(size_t n_queries, size_t head_dim) { return n_queries * (head_dim + 2); }
  static Partial at(float* memory, size_t n_queries) {
    return {memory, memory + n_queries, memory + 2 * n_queries};
  }

  void clear(size_t n_queries, size_t head_dim) const {
    std::fill_n(highest, n_queries, -std::numeric_limits<float>::infinity());
    std::fill_n(total, n_queries, 0.f);
    std::fill_n(out, n_queries * head_dim, 0.f);
  }

  /// Adds what came out of the next page.
  void add(const Partial& next, size_t n_queries, size_t head_dim) const {
    for (size_t i = 0; i < n_queries; ++i) {
      if (next.total[i] == 0) continue;  // saw nothing there
      const float max = std::max(highest[i], next.highest[i]);
      const float ours = std::exp(highest[i] - max);
      const float theirs = std::exp(next.highest[i] - max);
      highest[i] = max;
      total[i] = total[i] * ours + next.total[i] * theirs;
      float* to = out + i * head_dim;
      const float* from = next.out + i * head_dim;
      for (size_t j = 0; j < head_dim; ++j) to[j] = to[j] * ours + from[j] * theirs;
    }
  }
};

struct Attention::Call {
  std::span<const BatchRow> rows;
  std::span<const int64_t> first_visible;  // (rows)
  const CpuCache& cache;
  size_t layer;
  Queries queries;
  float* out;           // (rows, width)
  size_t group;         // query heads of one KV head
  size_t width;         // n_heads * head_dim
  size_t n_blocks;      // of heads
  size_t partial_size;  // floats that the largest Partial takes

  size_t head_dim() const { return cache.shape().head_dim; }
  size_t n_queries(const Tile& tile, size_t block) const {
    return tile.n_rows * head_block(block, group).n;
  }
  /// Multiply-adds of a row in a page.
  size_t work() const { return 2 * group * head_dim() * page_positions; }
};

Attention::Attention(const Kernels& kernels, ThreadPool& threads)
    : kernels_(kernels), threads_(threads), scratch_(threads.size()) {}
Attention::~Attention() = default;

void Attention::plan(const Batch& batch, const CacheShape& shape, size_t group) {
  const std::span<const BatchRow> rows = batch.rows;
  const std::span<const int64_t> first_visible = batch.first_of(shape.kind);
  const size_t max_rows = std::max<size_t>(1, attend_queries / group);
  const auto n_kept = static_cast<int64_t>(shape.n_kept);
  const auto page_of = [](int64_t position) {
    return static_cast<size_t>(position) / page_positions;
  };
  tiles_.clear();
  for (size_t r = 0; r < rows.size(); ++r) {
    const BatchRow& row = rows[r];
    const auto kept = static_cast<size_t>(std::min(n_kept, row.position + 1));
    const size_t kept_pages = (kept + page_positions - 1) / page_positions;
    const size_t begin = page_of(std::max(first_visible[r], n_kept));
    const size_t end = row.position < n_kept ? begin : page_of(row.position) + 1;
    const bool joins = r > 0 && tiles_.back().n_rows < max_rows && rows[r - 1].slot == row.slot &&
                       rows[r - 1].position >= n_kept;
    if (joins) {  // both see all kept positions
      ++tiles_.back().n_rows;
      tiles_.back().ring_end = end;
    } else {
      tiles_.push_back({r, 1, kept_pages, begin, end});
    }
  }
}

void Attention::attend(const Call& call, const Tile& tile, size_t head, size_t page, float* scratch,
                       const Partial& out) const {
  const CacheShape& shape = call.cache.shape();
  const HeadBlock heads = head_block(head, call.group);
  const bool kept = page < tile.kept_pages;
  const size_t counted = kept ? page : tile.ring_begin + page - tile.kept_pages;
  const auto n_kept = static_cast<int64_t>(shape.n_kept);
  const auto first_position = static_cast<int64_t>(counted * page_positions);
  const size_t place = kept ? page : shape.page_of(std::max(first_position, n_kept));
  const auto in_span = [&](int64_t position) {
    return static_cast<uint32_t>(
        std::clamp<int64_t>(position - first_position, 0, static_cast<int64_t>(page_positions)));
  };

  uint32_t begin[attend_queries];
  uint32_t end[attend_queries];
  size_t n = 0;
  float* q = scratch;  // (n_queries, head_dim)
  const float* from = kept ? call.queries.q_kept : call.queries.q;
  for (size_t r = tile.row; r < tile.row + tile.n_rows; ++r) {
    const BatchRow& row = call.rows[r];
    const int64_t first = kept ? 0 : std::max(call.first_visible[r], n_kept);
    const int64_t last = kept ? std::min(n_kept - 1, row.position) : row.position;
    std::copy_n(from + r * call.width + heads.first * shape.head_dim, heads.n * shape.head_dim,
                q + n * shape.head_dim);
    for (size_t h = 0; h < heads.n; ++h, ++n) {
      begin[n] = in_span(first);
      end[n] = std::max(begin[n], in_span(last + 1));
    }
  }
  const uint32_t slot = call.rows[tile.row].slot;
  kernels_.attend({.type = shape.type,
                   .head_dim = shape.head_dim,
                   .scale = call.queries.spec.scale,
                   .cap = call.queries.spec.cap,
                   .keys = call.cache.keys(slot, place, call.layer, heads.kv_head),
                   .values = call.cache.values(slot, place, call.layer, heads.kv_head),
                   .q = q,
                   .n_queries = n,
                   .begin = begin,
                   .end = end,
                   .highest = out.highest,
                   .total = out.total,
                   .out = out.out},
                  q + n * shape.head_dim);
}

/// Divides by the weights' total and writes where the queries' heads belong.
void Attention::finish(const Call& call, const Tile& tile, size_t block, const Partial& sum) {
  const HeadBlock heads = head_block(block, call.group);
  const Queries& queries = call.queries;
  const size_t head_dim = call.head_dim();
  const size_t head_gates = queries.n_gates / queries.n_heads;
  for (size_t i = 0; i < tile.n_rows * heads.n; ++i) {
    const size_t row = tile.row + i / heads.n;
    const size_t head = heads.first + i % heads.n;
    float* to = call.out + row * call.width + head * head_dim;
    for (size_t j = 0; j < head_dim; ++j) to[j] = sum.out[i * head_dim + j] / sum.total[i];
    if (queries.gate == nullptr) continue;
    const float* gate = queries.gate + row * queries.n_gates + head * head_gates;
    apply_gate({to, head_dim}, {gate, head_gates});
  }
}

void Attention::run(const Batch& batch, const CpuCache& cache, size_t layer, const Queries& queries,
                    float* out) {
  const CacheShape& shape = cache.shape();
  const size_t head_dim = shape.head_dim;
  const size_t group = queries.n_heads / shape.n_kv_heads;
  plan(batch, shape, group);
  const size_t most_rows = std::ranges::max(tiles_, {}, &Tile::n_rows).n_rows;
  const Call call{
      .rows = batch.rows,
      .first_visible = batch.first_of(shape.kind),
      .cache = cache,
      .layer = layer,
      .queries = queries,
      .out = out,
      .group = group,
      .width = queries.n_heads * head_dim,
      .n_blocks = shape.n_kv_heads * ((group - 1) / attend_queries + 1),
      .partial_size = Partial::size(most_rows * std::min(group, attend_queries), head_dim)};
  for (auto& memory : scratch_) {
    memory.resize(2 * call.partial_size + attend_queries * head_dim + attend_scratch(head_dim));
  }
  size_t n_pages = 0;
  for (const Tile& tile : tiles_) n_pages += tile.n_pages();
  if (n_pages == tiles_.size() || tiles_.size() >= 2 * threads_.size()) {
    run_whole(call, n_pages);
  } else {
    run_split(call);
  }
}

/// A block of heads of a tile is a task, over all `n_pages` of the tiles.
void Attention::run_whole(const Call& call, size_t n_pages) {
  const size_t rows_per_tile = call.rows.size() / tiles_.size();
  const size_t grain = grain_for(call.work() * rows_per_tile * n_pages / tiles_.size());
  const size_t n_items = tiles_.size() * call.n_blocks;
  threads_.run(n_items, grain, [&](size_t first, size_t last, size_t thread) {
    float* memory = scratch_[thread].data();
    for (size_t item = first; item < last; ++item) {
      const Tile& tile = tiles_[item / call.n_blocks];
      const size_t block = item % call.n_blocks;
      const size_t n = call.n_queries(tile, block);
      const Partial sum = Partial::at(memory, n);
      const Partial next = Partial::at(memory + call.partial_size, n);
      sum.clear(n, call.head_dim());
      for (size_t page = 0; page < tile.n_pages(); ++page) {
        attend(call, tile, block, page, memory + 2 * call.partial_size, next);
        sum.add(next, n, call.head_dim());
      }
      finish(call, tile, block, sum);
    }
  });
}

/// Few tiles: every page of a block of heads is a task of its own. The blocks of a page come one
/// after the other, as they lie in memory. Their sums are added in the same order as above, wave by
/// wave: the memory that takes does not grow with the context.
void Attention::run_split(const Call& call) {
  constexpr size_t tasks_per_thread = 64;  // in a wave, which makes waiting for its end cheap
  const size_t n_items = tiles_.size() * call.n_blocks;
  const size_t wave = (tasks_per_thread * threads_.size() - 1) / n_items + 1;  // pages
  const size_t max_pages = std::ranges::max(tiles_, {}, &Tile::n_pages).n_pages();
  const size_t n_partials = n_items * std::min(wave, max_pages);
  // The sums so far, (tiles, blocks), then what a wave adds, (tiles, pages, blocks).
  partials_.resize(std::max(partials_.size(), (n_items + n_partials) * call.partial_size));
  const auto sum_of = [&](size_t tile, size_t block) {
    return Partial::at(partials_.data() + (tile * call.n_blocks + block) * call.partial_size,
                       call.n_queries(tiles_[tile], block));
  };
  for (size_t first_page = 0; first_page < max_pages; first_page += wave) {
    const size_t n_pages = std::min(wave, max_pages - first_page);
    const auto partial_of = [&](size_t tile, size_t page, size_t block) {
      const size_t task = (tile * n_pages + page - first_page) * call.n_blocks + block;
      return Partial::at(partials_.data() + (n_items + task) * call.partial_size,
                         call.n_queries(tiles_[tile], block));
    };
    threads_.run(n_items * n_pages, grain_for(call.work()),
                 [&](size_t first, size_t last, size_t thread) {
                   for (size_t task = first; task < last; ++task) {
                     const size_t tile = task / call.n_blocks / n_pages;
                     const size_t page = first_page + task / call.n_blocks % n_pages;
                     const size_t block = task % call.n_blocks;
                     if (page >= tiles_[tile].n_pages()) continue;
                     attend(call, tiles_[tile], block, page, scratch_[thread].data(),
                            partial_of(tile, page, block));
                   }
                 });
    const size_t merged = n_pages * call.partial_size;  // floats of a block
    threads_.run(n_items, grain_for(merged), [&](size_t first, size_t last, size_t) {
      for (size_t item = first; item < last; ++item) {
        const size_t tile = item / call.n_blocks;
        const size_t block = item % call.n_blocks;
        const size_t n = call.n_queries(tiles_[tile], block);
        const size_t end = std::min(first_page + n_pages, tiles_[tile].n_pages());
        const Partial sum = sum_of(tile, block);
        if (first_page == 0) sum.clear(n, call.head_dim());
        for (size_t page = first_page; page < end; ++page) {
          sum.add(partial_of(tile, page, block), n, call.head_dim());
        }
        if (first_page + n_pages == max_pages) finish(call, tiles_[tile], block, sum);
      }
    });
  }
}

}  // namespace vga::cpu
