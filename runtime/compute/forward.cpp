#include "compute/forward.h"

#include <algorithm>
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

/// x += delta_net(norm(x)), see DeltaNet. What the states give is normalised head by head and
/// passes a gate: W_o (norm(o) * silu(W_g in)).
void delta_net(const Config& c, const BlockWeights& block, size_t layer, Stage& stage,
               const Watch& watch) {
  Backend& ops = *stage.ops;
  const Activations& a = stage.activations;
  const DeltaWeights& w = block.delta;
  Buffer& in = branch_input(c, block.attn_norm, a, ops, *a.h);
  watch(Site::attn_norm, in);
  const std::array inputs = {Projection{w.qkv, *a.delta_qkv}, Projection{w.gate, *a.delta_gate},
                             Projection{w.decay, *a.decay}, Projection{w.strength, *a.strength}};
  ops.project(in, inputs);
  ops.decay(*a.decay, w.decay_bias, w.decay_scale);
  ops.activate(*a.strength, nullptr, Activation::sigmoid);
  watch(Site::delta_decay, *a.decay);
  watch(Site::delta_strength, *a.strength);

  const size_t of_state = stage.layer_caches[layer - stage.layers.first].layer;
  ops.convolve(*a.delta_qkv, w.conv, *stage.state, of_state);
  ops.delta_rule(*a.delta_qkv, *a.decay, *a.strength, *stage.state, of_state, *a.delta_mixed);
  ops.norm(*a.delta_mixed, w.norm, NormKind::rms, c.norm_eps, *a.delta_mixed);
  ops.activate(*a.delta_gate, a.delta_mixed.get(), Activation::silu);
  watch(Site::delta_mixed, *a.delta_gate);

  const std::array output = {Projection{w.output, *a.h}};
  ops.project(*a.delta_gate, output);
  watch(Site::delta_output, *a.h);
  add_branch(c, block.attn_post_norm, a, ops, *a.h);
  watch(Site::attn_residual, *a.x);
}

/// What mixes tokens: x += attention or delta net of norm(x).
void mix(const Config& c, const BlockWeights& w, size_t layer, Stage& stage, const Watch& watch) {
  if (c.layers[layer].mixer == Mixer::delta) {
    delta_net(c, w, layer, stage, watch);
  } else {
    attention(c, w, layer, stage, watch);
  }
}

/// h = the sum of what a token's experts give, each as the router weighs it, and of the network
/// that all tokens share: the same as an FFN that each of them is.
void mix_of_experts(const Config& c, const ExpertWeights& w, Stage& stage, const Buffer& in,
                    const Watch& watch) {
  Backend& ops = *stage.ops;
  const Activations& a = stage.activations;
  const std::array router = {Projection{w.router, *a.router}};
  ops.project(in, router);
  ops.route(*a.router, w.choice_bias, c.experts, *a.routed);
  watch(Site::experts, *a.routed);

  const bool is_shared = c.experts.shared_ffn_size > 0;
  if (is_shared) {
    const std::array gate_up = {Projection{w.shared_gate, *a.shared},
                                Projection{w.shared_up, *a.shared_up}};
    ops.project(in, gate_up);
    ops.activate(*a.shared, a.shared_up.get(), c.activation);
    const std::array down = {Projection{w.shared_down, *a.shared_out}};
    ops.project(*a.shared, down);
  }
  if (c.experts.shared_gate) {
    const std::array weight = {Projection{w.shared_weight, *a.shared_weight}};
    ops.project(in, weight);
    ops.activate(*a.shared_weight, nullptr, Activation::sigmoid);
    ops.scale_rows(*a.shared_out, *a.shared_weight);
  }

  const std::array gate_up = {ExpertProjection{w.gate.weight, *a.expert},
                              ExpertProjection{w.up.weight, *a.expert_up}};
  ops.project_experts(in, *a.routed, gate_up);
  watch(Site::ffn_up, *a.expert_up);
  ops.activate(*a.expert, a.expert_up.get(), c.activation);
  watch(Site::ffn_mixed, *a.expert);
  const std::array down = {ExpertProjection{w.down.weight, *a.expert_out}};
  ops.project_experts(*a.expert, *a.routed, down);
  ops.mix_experts(*a.expert_out, *a.routed, *a.h);
  if (is_shared) ops.add(*a.h, *a.shared_out, 1);
}

/// h = down(activation(gate(in)) * up(in)), or without a gate down(activation(up(in))).
void one_network(const Config& c, const BlockWeights& w, Stage& stage, const Buffer& in,
                 const Watch& watch) {
  Backend& ops = *stage.ops;
  const Activations& a = stage.activations;
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
}

/// x += FFN(in).
void feed_forward(const Config& c, const BlockWeights& w, size_t layer, Stage& stage, Buffer& in,
                  const Watch& watch) {
  const Activations& a = stage.activations;
  watch(Site::ffn_norm, in);
  if (c.layers[layer].experts) {
    mix_of_experts(c, w.experts, stage, in, watch);
  } else {
    one_network(c, w, stage, in, watch);
  }
  watch(Site::ffn_down, *a.h);
  add_branch(c, w.ffn_post_norm, a, *stage.ops, *a.h);
  watch(Site::block, *a.x);
}

void block(const Config& c, const BlockWeights& w, size_t layer, Stage& stage, const Watch& watch) {
  const Activations& a = stage.activations;
  if (c.parallel_residual) {  // both branches read x as it is now
    Buffer& in = branch_input(c, w.ffn_norm, a, *stage.ops, *a.h_ffn);
    mix(c, w, layer, stage, watch);
    feed_forward(c, w, layer, stage, in, watch);
  } else {
    mix(c, w, layer, stage, watch);
    Buffer& in = branch_input(c, w.ffn_norm, a, *stage.ops, *a.h);
    feed_forward(c, w, layer, stage, in, watch);
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
  if (!std::ranges::all_of(c.layers, &LayerConfig::experts)) {
    visit(a.ffn, c.ffn_size);
    if (c.ffn_gated) visit(a.ffn_up, c.ffn_size);
  }
  if (c.has(Mixer::delta)) {
    const DeltaNet& d = c.delta;
    visit(a.delta_qkv, d.conv_cols());
    visit(a.delta_gate, d.value_size());
    visit(a.delta_mixed, d.value_size());
    visit(a.decay, d.n_value_heads);
    visit(a.strength, d.n_value_heads);
  }
  if (!c.has_experts()) return;
  const Experts& e = c.experts;
  visit(a.router, e.n);
  visit(a.routed, 2 * e.n_used);
  visit(a.expert, e.n_used * e.ffn_size);
  visit(a.expert_up, e.n_used * e.ffn_size);
  visit(a.expert_out, e.n_used * c.hidden_size);
  if (e.shared_ffn_size == 0) return;
  visit(a.shared, e.shared_ffn_size);
  visit(a.shared_up, e.shared_ffn_size);
  visit(a.shared_out, c.hidden_size);
  if (e.shared_gate) visit(a.shared_weight, 1);
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
  const StateShape state_shape = plan.state_of(layers);
  if (state_shape.n_layers > 0) state = ops->new_state(state_shape);
  size_t n_states = 0;
  for (size_t layer = layers.first; layer < layers.end; ++layer) {
    const size_t kind = plan.kind_of_layer[layer];
    if (kind == CachePlan::no_kind) {
      layer_caches.push_back({nullptr, n_states++});
      continue;
    }
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
