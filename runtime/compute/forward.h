#pragma once

#include <memory>

#include "compute/backend.h"
#include "model/weights.h"
#include "vga/config.h"
#include "vga/observer.h"

namespace vga {

/// Buffers of one forward pass, for batches of up to max_rows rows.
struct Activations {
  /// `keeps_tokens`: the cache has kept positions, which want queries of their own.
  Activations(const Config& config, Backend& ops, size_t max_rows, bool keeps_tokens);

  std::unique_ptr<Buffer> x;       // (rows, hidden_size) the residual stream
  std::unique_ptr<Buffer> h;       // (rows, hidden_size) a sublayer's normalised input, or output
  std::unique_ptr<Buffer> q;       // (rows, n_heads * head_dim)
  std::unique_ptr<Buffer> q_kept;  // (rows, n_heads * head_dim) rotated for kept keys, or null
  std::unique_ptr<Buffer> k;       // (rows, n_kv_heads * head_dim)
  std::unique_ptr<Buffer> v;       // (rows, n_kv_heads * head_dim)
  std::unique_ptr<Buffer> mixed;   // (rows, n_heads * head_dim) what attention delivers
  std::unique_ptr<Buffer> gate;    // (rows, n_gates), null without a gate
  std::unique_ptr<Buffer> ffn;     // (rows, ffn_size)
  std::unique_ptr<Buffer> ffn_up;  // (rows, ffn_size)
};

/// A run of layers on one backend, with what it needs there. A model is computed by one stage, or
/// by several in a row that hand the residual stream on.
struct Stage {
  Stage(const Config& config, std::unique_ptr<Backend> ops, size_t first_layer, size_t end_layer,
        CacheShape shape, size_t max_rows);

  std::unique_ptr<Backend> ops;
  size_t first_layer;
  size_t end_layer;
  std::unique_ptr<Cache> cache;  // of these layers
  Activations activations;
};

/// Looks on while forward() runs, and may write to what it sees.
class ForwardObserver {
 public:
  virtual ~ForwardObserver() = default;
  virtual void see(Site site, size_t layer, Backend& ops, Buffer& x) = 0;
};

/// The transformer. Runs `batch` through all layers, adding its keys and values to the stages'
/// caches, and leaves the states of the wanted rows in the last stage for project_logits().
void forward(const Config& config, const Weights& weights, std::span<Stage> stages,
             const Batch& batch, ForwardObserver* observer = nullptr);

/// The logits of `n` of the `n_wanted` rows, from `first` on, in the first rows of `logits`
/// (at least n, vocab_size), which is the last stage's. May be called any number of times.
void project_logits(const Weights& weights, const Stage& last, size_t n_wanted, size_t first,
                    size_t n, Buffer& logits);

}  // namespace vga
