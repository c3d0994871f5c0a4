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

/// What a branch reads: the residual stream, normalised into h where the model has a norm there.
Buffer& branch_input(const Config& c, const Norm& norm, const Activations& a, Backend& ops,
                     Buffer& h) {
  if (!c.norm_before) return *a.x;
  ops.norm(*a.x, norm, c.norm, c.norm_eps, h);
  return h;
}

/// x += y, which a branch gave, normalised first where the model has a norm there.
void add_branch(const Config& c, const Norm& norm, const Activations& a, Backend& ops, Buffer& y) {
  if (c.norm_after) ops.norm(y, norm, c.norm, c.norm_eps, y);
  ops.add(*a.x, y, c.residual_scale);
}

/// q and k as attention compares them: normalised and rotated where this layer does either.
void place_heads(const Config& c, const BlockWeights& w, size_t layer, Stage& stage,
                 const Buffer* q_kept) {
  Backend& ops = *stage.ops;
  const Activations& a = stage.activations;
  if (c.qk_norm != QkNorm::none) {
    ops.norm(*a.q, w.attn_q_norm, NormKind::rms, c.norm_eps, *a.q);
    ops.norm(*a.k, w.attn_k_norm, NormKind::rms, c.norm_eps, *a.k);
  }
  const std::optional<size_t> table = c.layers[layer].rope;
  if (!table) return;
  const RopeSpec spec{c.head_dim, c.half_split, *table};
  if (q_kept != nullptr) ops.rope_kept(*a.q, spec, *a.q_kept);
  ops.rope(*a.q, spec);
  ops.rope(*a.k, spec);
}

/// x += attention(norm(x)), gated as the model asks. Writing V for the values, α for the attention
/// weights and g = σ(W s + b) for the gate:
///   output placement: z_i = g_i Σ_j α_ij V_j      value placement: z_i = Σ_j α_ij g_j V_j
void attention(const Config& c, const BlockWeights& w, size_t layer, Stage& stage,
               const Watch& watch) {
  Backend& ops = *stage.ops;
  const Activations& a = stage.activations;
  Buffer& in = branch_input(c, w.attn_norm, a, ops, *a.h);
  watch(Site::attn_norm, in);
  const std::array qkv = {Projection{w.attn_q, *a.q}, Projection{w.attn_k, *a.k},
                          Projection{w.attn_v, *a.v}};
  ops.project(in, qkv);
  watch(Site::attn_q, *a.q);
  watch(Site::attn_k, *a.k);
  watch(Site::attn_v, *a.v);

  if (c.gate) {
    const Buffer& source = c.gate.source == Gate::Source::value ? *a.v : in;
    const std::array gate = {Projection{w.attn_gate, *a.gate}};
    ops.project(source, gate);
    ops.activate(*a.gate, nullptr, Activation::sigmoid);
    watch(Site::attn_gate, *a.gate);
  }

  const auto [cache, cached] = stage.layer_caches[layer - stage.layers.first];
  const bool keeps = cache->shape().n_kept > 0;
  // Where nothing rotates, kept keys are met by the same queries.
  const Buffer* q_kept = !keeps ? nullptr : c.layers[layer].rope ? a.q_kept.get() : a.q.get();
  place_heads(c, w, layer, stage, q_kept);
  watch(Site::q_rotated, *a.q);
  watch(Site::k_rotated, *a.k);

  // g_j goes into the cache with V_j, g_i is applied to what row i has mixed.
  const auto gate_at = [&](Gate::Placement placement) {
    return c.gate && c.gate.placement == placement ? a.gate.get() : nullptr;
  };
  ops.write_cache(*cache, cached, *a.k, *a.v, gate_at(Gate::Placement::value));
  ops.attend(*a.q, q_kept, *cache, cached, {c.score_scale, c.score_cap},
             gate_at(Gate::Placement::output), *a.mixed);
  watch(Site::attn_mixed, *a.mixed);

  const std::array output = {Projection{w.attn_output, *a.h}};
  ops.project(*a.mixed, output);
  watch(Site::attn_output, *a.h);
  add_branch(c, w.attn_post_norm, a, ops, *a.h);
  watch(Site::attn_residual, *a.x);
}

/// x += down(activation(gate(in)) * up(in)), or without a gate x += down(activation(up(in))).
void feed_forward(const Config& c, const BlockWeights& w, Stage& stage, Buffer& in,
                  const Watch& watch) {
  Backend& ops = *stage.ops;
  const Activations& a = stage.activations;
  watch(Site::ffn_norm, in);
  if (c.ffn_gated) {
    const std::array gate_up = {Projection{w.ffn_gate, *a.ffn}, Projection{w.ffn_up, *a.ffn_up}};
    ops.project(in, gate_up);
    watch(Site::ffn_up, *a.ffn_up);
  } else {
    const std::array up = {Projection{w.ffn_up, *a.ffn}};
    ops.project(in, up);
    watch(Site::ffn_up, *a.ffn);
  }
  ops.activate(*a.ffn, a.ffn_up.get(), c.activation);
  watch(Site::ffn_mixed, *a.ffn);
  const std::array down = {Projection{w.ffn_down, *a.h}};
  ops.project(*a.ffn, down);
  watch(Site::ffn_down, *a.h);
  add_branch(c, w.ffn_post_norm, a, ops, *a.h);
  watch(Site::block, *a.x);
}

void block(const Config& c, const BlockWeights& w, size_t layer, Stage& stage, const Watch& watch) {
  const Activations& a = stage.activations;
  if (c.parallel_residual) {  // both branches read x as it is now
    Buffer& in = branch_input(c, w.ffn_norm, a, *stage.ops, *a.h_ffn);
    attention(c, w, layer, stage, watch);
    feed_forward(c, w, stage, in, watch);
  } else {
    attention(c, w, layer, stage, watch);
    feed_forward(c, w, stage, branch_input(c, w.ffn_norm, a, *stage.ops, *a.h), watch);
  }
}

/// x goes from one stage to the next through host memory.
void hand_on(const Stage& from, Stage& to, size_t n_rows) {
  std::vector<float> x(n_rows * from.activations.x->cols());  // (rows, hidden_size)
  from.ops->read(*from.activations.x, x);
  to.ops->write(*to.activations.x, x);
}

}  // namespace

void visit_activations(Activations& a, const Config& c, bool keeps_tokens,
                       const std::function<void(std::unique_ptr<Buffer>&, size_t)>& visit) {
  visit(a.x, c.hidden_size);
  visit(a.h, c.hidden_size);
  if (c.parallel_residual) visit(a.h_ffn, c.hidden_size);
  visit(a.q, c.q_size());
  if (keeps_tokens) visit(a.q_kept, c.q_size());
  visit(a.k, c.kv_size());
  visit(a.v, c.kv_size());
  visit(a.mixed, c.q_size());
  if (c.gate) visit(a.gate, c.n_gates());
  visit(a.ffn, c.ffn_size);
  if (c.ffn_gated) visit(a.ffn_up, c.ffn_size);
}

Stage::Stage(const Config& config, std::unique_ptr<Backend> backend, const LayerRange& range,
             const CachePlan& plan, size_t max_rows)
    : ops(std::move(backend)), layers(range) {
  const std::vector<CacheShape> shapes = plan.shapes_of(layers);
  caches.resize(shapes.size());
  for (const CacheShape& shape : shapes) {
    if (shape.n_layers > 0) caches[shape.kind] = ops->new_cache(shape);
  }
  std::vector<size_t> n_placed(shapes.size());
  for (size_t layer = layers.first; layer < layers.end; ++layer) {
    const size_t kind = plan.kind_of_layer[layer];
    layer_caches.push_back({caches[kind].get(), n_placed[kind]++});
  }
  visit_activations(activations, config, plan.session.keep > 0,
                    [&](std::unique_ptr<Buffer>& buffer, size_t cols) {
                      buffer = ops->new_buffer(max_rows, cols);
                    });
}

void forward(const Config& c, const Weights& w, std::span<Stage> stages, const Batch& batch,
             ForwardObserver* observer) {
  for (size_t i = 0; i < stages.size(); ++i) {
    Stage& stage = stages[i];
    stage.ops->begin(batch);
    if (i == 0) {
      stage.ops->embed(w.token_embd, c.embedding_scale,
                       c.learned_positions ? &w.positions : nullptr, *stage.activations.x);
    } else {
      hand_on(stages[i - 1], stage, batch.rows.size());
    }
    for (size_t layer = stage.layers.first; layer < stage.layers.end; ++layer) {
      const Watch watch{observer, *stage.ops, layer};
      block(c, w.blocks[layer], layer, stage, watch);
    }
  }
  if (batch.wanted.empty()) return;
  Backend& ops = *stages.back().ops;
  const Activations& a = stages.back().activations;
  ops.keep_wanted(*a.x, *a.h);
  ops.norm(*a.h, w.output_norm, c.norm, c.norm_eps, *a.h);
  Watch{observer, ops, c.n_layers()}(Site::output_norm, *a.h);
}

void project_logits(const Config& c, const Weights& w, const Stage& last, size_t n_wanted,
                    size_t first, size_t n, Buffer& logits) {
  const Activations& a = last.activations;
  const bool all = n == n_wanted;
  if (!all) last.ops->keep_rows(*a.h, first, n, *a.x);  // x has done its work
  const std::array output = {Projection{w.output, logits, c.logit_scale, c.logit_cap}};
  last.ops->project(all ? *a.h : *a.x, output);
}

}  // namespace vga
