#pragma once

#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/kv_cache.h"
#include "cpu/threads.h"

namespace vga::cpu {

/// Multiplies x, one head or several, by its gates: one for each head, or one for each element.
void apply_gate(std::span<float> x, std::span<const float> gates);

/// Attention of a batch over the cache. Queries that share keys, those of a head group and of rows
/// that follow each other, are computed together as a tile; few tiles over a long context are split
/// over the threads page by page. Either way each query sums its pages in ascending order, and the
/// memory that it takes depends on the threads and the batch, not on the context.
class Attention {
 public:
  Attention(const Kernels& kernels, ThreadPool& threads);
  ~Attention();

  struct Queries {
    size_t n_heads;
    const float* q;       // (rows, n_heads * head_dim)
    const float* q_kept;  // the same, to meet kept keys; null if the cache keeps nothing
    const float* gate;    // (rows, n_gates) that what they get is multiplied by, or null
    size_t n_gates;       // n_heads, or n_heads * head_dim
    AttendSpec spec;
  };

  /// out is (rows, n_heads * head_dim).
  void run(const Batch& batch, const CpuCache& cache, size_t layer, const Queries& queries,
           float* out);

 private:
  struct Tile;
  struct Partial;
  struct Call;

  void plan(const Batch& batch, const CacheShape& shape, size_t group);
  void attend(const Call& call, const Tile& tile, size_t head, size_t page, float* scratch,
              const Partial& out) const;
  static void finish(const Call& call, const Tile& tile, size_t block, const Partial& sum);
  void run_whole(const Call& call, size_t n_pages);
  void run_split(const Call& call);

  const Kernels& kernels_;
  ThreadPool& threads_;
  std::vector<Tile> tiles_;                  // of the batch
  std::vector<float> partials_;              // of a wave of pages, when split
  std::vector<std::vector<float>> scratch_;  // one per thread
};

}  // namespace vga::cpu
