#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "compute/backend.h"
#include "compute/cache_plan.h"
#include "compute/device.h"
#include "vga/config.h"
#include "vga/observer.h"

namespace vga {

/// Buffers of one forward pass, for batches of up to max_rows rows; null where a model needs none.
struct Activations {
  std::unique_ptr<Buffer> x;  // (rows, hidden_size) the residual stream
  std::unique_ptr<Buffer> h;  // (rows, hidden_size) a branch's normalised input, or output
  std::unique_ptr<Buffer>
      h_ffn;                  // (rows, hidden_size) the FFN's input, if it reads beside attention
  std::unique_ptr<Buffer> q;  // (rows, n_heads * head_dim)
  std::unique_ptr<Buffer> q_kept;  // (rows, n_heads * head_dim) rotated for kept keys
  std::unique_ptr<Buffer> k;       // (rows, n_kv_heads * head_dim)
  std::unique_ptr<Buffer> v;       // (rows, n_kv_heads * head_dim)
  std::unique_ptr<Buffer> mixed;   // (rows, n_heads * head_dim) what attention delivers
  std::unique_ptr<Buffer> gate;    // (rows, n_gates)
  std::unique_ptr<Buffer> ffn;     // (rows, ffn_size)
  std::unique_ptr<Buffer> ffn_up;  // (rows, ffn_size), of a gated FFN

  // Delta nets.
  std::unique_ptr<Buffer> delta_qkv;    // (rows, conv_cols)
  std::unique_ptr<Buffer> delta_gate;   // (rows, value_size)
  std::unique_ptr<Buffer> delta_mixed;  // (rows, value_size) what the states give
  std::unique_ptr<Buffer> decay;        // (rows, n_value_heads)
  std::unique_ptr<Buffer> strength;     // (rows, n_value_heads)

  // Experts; ffn_size and so on are those of Config::experts.
  std::unique_ptr<Buffer> router;         // (rows, n)
  std::unique_ptr<Buffer> routed;         // (rows, 2 * n_used) those chosen, and what they weigh
  std::unique_ptr<Buffer> expert;         // (rows, n_used * ffn_size)
  std::unique_ptr<Buffer> expert_up;      // (rows, n_used * ffn_size)
  std::unique_ptr<Buffer> expert_out;     // (rows, n_used * hidden_size)
  std::unique_ptr<Buffer> shared;         // (rows, shared_ffn_size)
  std::unique_ptr<Buffer> shared_up;      // (rows, shared_ffn_size)
  std::unique_ptr<Buffer> shared_out;     // (rows, hidden_size)
  std::unique_ptr<Buffer> shared_weight;  // (rows, 1)
};

/// Lists the buffers that a model needs: visit(buffer, columns). `keeps_tokens`: a cache has kept
/// positions, which want queries of their own.
void visit_activations(Activations& activations, const Config& config, bool keeps_tokens,
                       const std::function<void(std::unique_ptr<Buffer>&, size_t cols)>& visit);

/// A run of layers on one backend, with what it needs there. A model is computed by one stage, or
/// by several in a row that hand the residual stream on.
struct Stage {
  Stage(const Config& config, std::unique_ptr<Backend> ops, const LayerRange& layers,
        const CachePlan& plan, size_t max_rows);

  /// Where a layer keeps its keys and values; a delta net has no cache but the state.
  struct LayerCache {
    Cache* cache;
    size_t layer;  // of the cache, or of the state
  };

  std::unique_ptr<Backend> ops;
  LayerRange layers;
  std::vector<std::unique_ptr<Cache>>
      caches;                            // of these layers, one for each kind that they are of
  std::unique_ptr<State> state;          // of those that are delta nets, null if none is
  std::vector<LayerCache> layer_caches;  // (layers)
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
void project_logits(const Config& config, const Weights& weights, const Stage& last,
                    size_t n_wanted, size_t first, size_t n, Buffer& logits);

}  // namespace vga
