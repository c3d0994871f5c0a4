#include "compute/forward.h"

#include <array>
#include <utility>
#include <vector>

namespace vga {
namespace {

using Gate = AttentionGate;

/// Shows the buffers of one layer to the observer, if there is one.
struct Watch {
  ForwardObserver* observer;
  Backend& ops;
  size_t layer;

  void operator()(Site site, Buffer& x) const {
    if (observer != nullptr) observer->see(site, layer, ops, x);
  }
};

/// x += attention(norm(x)), gated as the model asks. Writing V for the values, α for the attention
/// weights and g = σ(W s + b) for the gate:
///   output placement: z_i = g_i Σ_j α_ij V_j      value placement: z_i = Σ_j α_ij g_j V_j
void attention(const Config& c, const BlockWeights& w, size_t layer, Stage& stage,
               const Watch& watch) {
  Backend& ops = *stage.ops;
  const Activations& a = stage.activations;
  ops.rms_norm(*a.x, w.attn_norm, c.rms_eps, *a.h);
  watch(Site::attn_norm, *a.h);
  const std::array qkv = {Projection{w.attn_q, *a.q}, Projection{w.attn_k, *a.k},
                          Projection{w.attn_v, *a.v}};
  ops.project(*a.h, qkv);
  watch(Site::attn_q, *a.q);
  watch(Site::attn_k, *a.k);
  watch(Site::attn_v, *a.v);

  if (c.gate) {
    const Buffer& source = c.gate.source == Gate::Source::value ? *a.v : *a.h;
    const std::array gate = {Projection{w.attn_gate, *a.gate}};
    ops.project(source, gate);
    ops.sigmoid(*a.gate, w.attn_gate_b);
    watch(Site::attn_gate, *a.gate);
  }

  const bool half_split = c.architecture == Config::Architecture::vga;
  if (a.q_kept) ops.rope_kept(*a.q, c.head_dim, half_split, *a.q_kept);
  ops.rope(*a.q, c.head_dim, half_split);
  ops.rope(*a.k, c.head_dim, half_split);
  watch(Site::q_rotated, *a.q);
  watch(Site::k_rotated, *a.k);

  // g_j goes into the cache with V_j, g_i is applied to what row i has mixed.
  const auto gate_at = [&](Gate::Placement placement) {
    return c.gate && c.gate.placement == placement ? a.gate.get() : nullptr;
  };
  const size_t cached = layer - stage.first_layer;
  ops.write_cache(*stage.cache, cached, *a.k, *a.v, gate_at(Gate::Placement::value));
  ops.attend(*a.q, a.q_kept.get(), *stage.cache, cached, gate_at(Gate::Placement::output),
             *a.mixed);
  watch(Site::attn_mixed, *a.mixed);

  const std::array output = {Projection{w.attn_output, *a.h}};
  ops.project(*a.mixed, output);
  watch(Site::attn_output, *a.h);
  ops.add(*a.x, *a.h);
  watch(Site::attn_residual, *a.x);
}

/// x += down(silu(gate(norm(x))) * up(norm(x))).
void feed_forward(const Config& c, const BlockWeights& w, Stage& stage, const Watch& watch) {
  Backend& ops = *stage.ops;
  const Activations& a = stage.activations;
  ops.rms_norm(*a.x, w.ffn_norm, c.rms_eps, *a.h);
  watch(Site::ffn_norm, *a.h);
  const std::array gate_up = {Projection{w.ffn_gate, *a.ffn}, Projection{w.ffn_up, *a.ffn_up}};
  ops.project(*a.h, gate_up);
  watch(Site::ffn_up, *a.ffn_up);
  ops.swiglu(*a.ffn, *a.ffn_up);
  watch(Site::ffn_mixed, *a.ffn);
  const std::array down = {Projection{w.ffn_down, *a.h}};
  ops.project(*a.ffn, down);
  watch(Site::ffn_down, *a.h);
  ops.add(*a.x, *a.h);
  watch(Site::block, *a.x);
}

/// x goes from one stage to the next through host memory.
void hand_on(const Stage& from, Stage& to, size_t n_rows) {
  std::vector<float> x(n_rows * from.activations.x->cols());  // (rows, hidden_size)
  from.ops->read(*from.activations.x, x);
  to.ops->write(*to.activations.x, x);
}

/// The same layers, fewer of them.
CacheShape part_of(CacheShape shape, size_t n_layers) {
  shape.n_layers = n_layers;
  return shape;
}

}  // namespace

Activations::Activations(const Config& c, Backend& ops, size_t max_rows, bool keeps_tokens)
    : x(ops.new_buffer(max_rows, c.hidden_size)),
      h(ops.new_buffer(max_rows, c.hidden_size)),
      q(ops.new_buffer(max_rows, c.q_size())),
      q_kept(keeps_tokens ? ops.new_buffer(max_rows, c.q_size()) : nullptr),
      k(ops.new_buffer(max_rows, c.kv_size())),
      v(ops.new_buffer(max_rows, c.kv_size())),
      mixed(ops.new_buffer(max_rows, c.q_size())),
      gate(c.gate ? ops.new_buffer(max_rows, c.n_gates()) : nullptr),
      ffn(ops.new_buffer(max_rows, c.ffn_size)),
      ffn_up(ops.new_buffer(max_rows, c.ffn_size)) {}

Stage::Stage(const Config& config, std::unique_ptr<Backend> backend, size_t first, size_t end,
             CacheShape shape, size_t max_rows)
    : ops(std::move(backend)),
      first_layer(first),
      end_layer(end),
      cache(ops->new_cache(part_of(shape, end - first))),
      activations(config, *ops, max_rows, shape.n_kept > 0) {}

void forward(const Config& c, const Weights& w, std::span<Stage> stages, const Batch& batch,
             ForwardObserver* observer) {
  for (size_t i = 0; i < stages.size(); ++i) {
    Stage& stage = stages[i];
    stage.ops->begin(batch);
    if (i == 0) {
      stage.ops->embed(w.token_embd, *stage.activations.x);
    } else {
      hand_on(stages[i - 1], stage, batch.rows.size());
    }
    for (size_t layer = stage.first_layer; layer < stage.end_layer; ++layer) {
      const Watch watch{observer, *stage.ops, layer};
      attention(c, w.blocks[layer], layer, stage, watch);
      feed_forward(c, w.blocks[layer], stage, watch);
    }
  }
  if (batch.wanted.empty()) return;
  Backend& ops = *stages.back().ops;
  const Activations& a = stages.back().activations;
  ops.keep_wanted(*a.x, *a.h);
  ops.rms_norm(*a.h, w.output_norm, c.rms_eps, *a.h);
  Watch{observer, ops, c.n_layers}(Site::output_norm, *a.h);
}

void project_logits(const Weights& w, const Stage& last, size_t n_wanted, size_t first, size_t n,
                    Buffer& logits) {
  const Activations& a = last.activations;
  const bool all = n == n_wanted;
  if (!all) last.ops->keep_rows(*a.h, first, n, *a.x);  // x has done its work
  const std::array output = {Projection{w.output, logits}};
  last.ops->project(all ? *a.h : *a.x, output);
}

}  // namespace vga
