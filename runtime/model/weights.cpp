#include "model/weights.h"

#include <array>
#include <cmath>
#include <cstring>
#include <map>

#include "base/text.h"
#include "gguf/gguf.h"
#include "vga/error.h"

namespace vga {
namespace {

/// A linear layer that is rows of a tensor of the file.
struct LinearPart {
  Linear* linear;
  size_t outputs;
};

/// Visits the weights of one block, or those that belong to none.
class Visitor {
 public:
  Visitor(const Config& config, size_t layer, const WeightVisitor& visit)
      : config_(config), layer_(layer), visit_(visit) {
    if (layer != WeightSpec::no_layer) prefix_ = "blk." + std::to_string(layer) + ".";
  }

  void tensor(std::string_view name, Role role, Tensor& tensor, size_t rows, size_t cols) const {
    const WeightSpec spec = {prefix_ + std::string(name), role, layer_, rows, cols};
    const WeightPart part{&tensor, spec.is_vector() ? cols : rows};
    visit_(spec, std::span(&part, 1));
  }

  void norm(const std::string& name, Norm& norm, size_t size) const {
    tensor(name + ".weight", Role::norm, norm.weight, 1, size);
    if (config_.norm == NormKind::layer) tensor(name + ".bias", Role::bias, norm.bias, 1, size);
  }

  void linear(const std::string& name, Role role, Linear& linear, size_t outputs, size_t inputs,
              bool has_bias = false) const {
    const LinearPart part{&linear, outputs};
    fused(name, role, std::span(&part, 1), inputs, has_bias);
  }

  /// The matrices of all experts, which have so many outputs each, in one tensor.
  void experts(const std::string& name, Role role, Linear& linear, size_t outputs,
               size_t inputs) const {
    const size_t n = config_.experts.n;
    const WeightPart part{&linear.weight, n * outputs, &linear};
    visit_({.name = prefix_ + name + ".weight",
            .role = role,
            .layer = layer_,
            .rows = n * outputs,
            .cols = inputs,
            .experts = n},
           std::span(&part, 1));
  }

  /// Two linear layers of as many rows, which take turns in one tensor: `turn` of the one, then as
  /// many of the other.
  void in_turn(const std::string& name, Role role, Linear& one, Linear& other, size_t outputs,
               size_t inputs, size_t turn) const {
    const std::array parts = {WeightPart{&one.weight, outputs, &one},
                              WeightPart{&other.weight, outputs, &other}};
    visit_({.name = prefix_ + name + ".weight",
            .role = role,
            .layer = layer_,
            .rows = 2 * outputs,
            .cols = inputs,
            .turn = turn},
           parts);
  }

  /// Several linear layers whose rows follow each other in one tensor.
  void fused(const std::string& name, Role role, std::span<const LinearPart> layers, size_t inputs,
             bool has_bias) const {
    std::vector<WeightPart> weights;
    std::vector<WeightPart> biases;
    size_t outputs = 0;
    for (const LinearPart& layer : layers) {
      weights.push_back({&layer.linear->weight, layer.outputs, layer.linear});
      biases.push_back({&layer.linear->bias, layer.outputs});
      outputs += layer.outputs;
    }
    visit_({prefix_ + name + ".weight", role, layer_, outputs, inputs}, weights);
    const bool gates = role == Role::attn_gate || role == Role::attn_wide_gate;
    const Role bias = gates ? Role::attn_gate_bias : Role::bias;
    if (has_bias) visit_({prefix_ + name + ".bias", bias, layer_, 1, outputs}, biases);
  }

 private:
  const Config& config_;
  size_t layer_;
  const WeightVisitor& visit_;
  std::string prefix_;
};

/// A gate for each element of the input's heads is as large as q; others are small.
Role gate_role(const Config& c) {
  const bool is_wide = c.gate.source == AttentionGate::Source::input &&
                       c.gate.granularity == AttentionGate::Granularity::element;
  return is_wide ? Role::attn_wide_gate : Role::attn_gate;
}

void visit_attention(const Visitor& in, BlockWeights& b, const Config& c) {
  if (c.fused_q_gate) {
    in.in_turn("attn_q", Role::attn_q, b.attn_q, b.attn_gate, c.q_size(), c.hidden_size,
               c.head_dim);
    in.linear("attn_k", Role::attn_k, b.attn_k, c.kv_size(), c.hidden_size);
    in.linear("attn_v", Role::attn_v, b.attn_v, c.kv_size(), c.hidden_size);
  } else if (c.fused_qkv) {
    in.fused("attn_qkv", Role::attn_qkv,
             std::array{LinearPart{&b.attn_q, c.q_size()}, LinearPart{&b.attn_k, c.kv_size()},
                        LinearPart{&b.attn_v, c.kv_size()}},
             c.hidden_size, c.biases.qkv);
  } else {
    in.linear("attn_q", Role::attn_q, b.attn_q, c.q_size(), c.hidden_size, c.biases.qkv);
    in.linear("attn_k", Role::attn_k, b.attn_k, c.kv_size(), c.hidden_size, c.biases.qkv);
    in.linear("attn_v", Role::attn_v, b.attn_v, c.kv_size(), c.hidden_size, c.biases.qkv);
  }
  if (c.qk_norm != QkNorm::none) {
    const bool all = c.qk_norm == QkNorm::all;
    in.tensor("attn_q_norm.weight", Role::norm, b.attn_q_norm.weight, 1,
              all ? c.q_size() : c.head_dim);
    in.tensor("attn_k_norm.weight", Role::norm, b.attn_k_norm.weight, 1,
              all ? c.kv_size() : c.head_dim);
  }
  if (c.gate && !c.fused_q_gate) {
    in.linear("attn_gate", gate_role(c), b.attn_gate, c.n_gates(), c.gate_inputs(), c.gate.bias);
  }
  in.linear("attn_output", Role::attn_output, b.attn_output, c.hidden_size, c.q_size(),
            c.biases.output);
}

void visit_delta(const Visitor& in, DeltaWeights& w, const Config& c) {
  const DeltaNet& d = c.delta;
  in.linear("attn_qkv", Role::delta_qkv, w.qkv, d.conv_cols(), c.hidden_size);
  in.linear("attn_gate", Role::delta_gate, w.gate, d.value_size(), c.hidden_size);
  if (d.fused_rates) {
    in.in_turn("ssm_ba", Role::delta_rates, w.strength, w.decay, d.n_value_heads, c.hidden_size,
               d.n_value_heads / d.n_key_heads);
  } else {
    in.linear("ssm_alpha", Role::delta_rates, w.decay, d.n_value_heads, c.hidden_size);
    in.linear("ssm_beta", Role::delta_rates, w.strength, d.n_value_heads, c.hidden_size);
  }
  in.tensor("ssm_conv1d.weight", Role::delta_conv, w.conv, d.conv_cols(), d.conv_size);
  in.tensor("ssm_dt.bias", Role::bias, w.decay_bias, 1, d.n_value_heads);
  in.tensor("ssm_a", Role::decay_scale, w.decay_scale, 1, d.n_value_heads);
  in.tensor("ssm_norm.weight", Role::norm, w.norm.weight, 1, d.head_dim);
  in.linear("ssm_out", Role::delta_output, w.output, c.hidden_size, d.value_size());
}

void visit_experts(const Visitor& in, ExpertWeights& w, const Config& c) {
  const Experts& e = c.experts;
  in.linear("ffn_gate_inp", Role::router, w.router, e.n, c.hidden_size);
  if (e.choice_bias) in.tensor("exp_probs_b.bias", Role::bias, w.choice_bias, 1, e.n);
  in.experts("ffn_gate_exps", Role::expert_gate, w.gate, e.ffn_size, c.hidden_size);
  in.experts("ffn_up_exps", Role::expert_up, w.up, e.ffn_size, c.hidden_size);
  in.experts("ffn_down_exps", Role::expert_down, w.down, c.hidden_size, e.ffn_size);
  if (e.shared_ffn_size == 0) return;
  if (e.shared_gate) {
    in.linear("ffn_gate_inp_shexp", Role::shared_weight, w.shared_weight, 1, c.hidden_size);
  }
  in.linear("ffn_gate_shexp", Role::ffn_gate, w.shared_gate, e.shared_ffn_size, c.hidden_size);
  in.linear("ffn_up_shexp", Role::ffn_up, w.shared_up, e.shared_ffn_size, c.hidden_size);
  in.linear("ffn_down_shexp", Role::ffn_down, w.shared_down, c.hidden_size, e.shared_ffn_size);
}

void visit_feed_forward(const Visitor& in, BlockWeights& b, const Config& c) {
  if (c.fused_gate_up) {
    in.fused("ffn_up", Role::ffn_up,
             std::array{LinearPart{&b.ffn_gate, c.ffn_size}, LinearPart{&b.ffn_up, c.ffn_size}},
             c.hidden_size, c.biases.ffn);
  } else {
    if (c.ffn_gated) {
      in.linear("ffn_gate", Role::ffn_gate, b.ffn_gate, c.ffn_size, c.hidden_size, c.biases.ffn);
    }
    in.linear("ffn_up", Role::ffn_up, b.ffn_up, c.ffn_size, c.hidden_size, c.biases.ffn);
  }
  in.linear("ffn_down", Role::ffn_down, b.ffn_down, c.hidden_size, c.ffn_size, c.biases.ffn);
}

void visit_block(const Visitor& in, BlockWeights& b, const Config& c, const LayerConfig& layer) {
  if (c.norm_before) in.norm("attn_norm", b.attn_norm, c.hidden_size);
  if (layer.mixer == Mixer::delta) {
    visit_delta(in, b.delta, c);
  } else {
    visit_attention(in, b, c);
  }
  if (c.norm_after) in.norm("post_attention_norm", b.attn_post_norm, c.hidden_size);
  if (c.norm_before) {
    in.norm(c.ffn_norm_is_post_attention ? "post_attention_norm" : "ffn_norm", b.ffn_norm,
            c.hidden_size);
  }
  if (layer.experts) {
    visit_experts(in, b.experts, c);
  } else {
    visit_feed_forward(in, b, c);
  }
  if (c.norm_after) in.norm("post_ffw_norm", b.ffn_post_norm, c.hidden_size);
}

/// What a name that is no part of a model may be: frequencies that old converters stored with each
/// block, which follow from theta, and the blocks behind the last one, which draft tokens.
bool is_ignored(std::string_view name, const Config& config) {
  if (name.ends_with("attn_rot_embd")) return true;
  const size_t n = config.n_layers();
  for (size_t i = n; i < n + config.n_draft_layers; ++i) {
    if (name.starts_with("blk." + std::to_string(i) + ".")) return true;
  }
  return false;
}

void check_rope_factors(const GgufTensor& factors, const std::string& where) {
  for (size_t i = 0; i < factors.dims[0]; ++i) {
    float factor = 0;
    std::memcpy(&factor, factors.data.data() + i * sizeof factor, sizeof factor);
    if (std::isfinite(factor) && factor > 0) continue;
    throw Error(where, "wanted positive numbers, found " + std::to_string(factor) + " at " +
                           std::to_string(i));
  }
}

}  // namespace

void visit_weights(Weights& w, const Config& c, const WeightVisitor& visit) {
  const Visitor model(c, WeightSpec::no_layer, visit);
  const size_t n_pairs = c.rope_dim / 2;
  if (c.rope_factors == RopeFactors::fixed) {
    model.tensor("rope_freqs.weight", Role::rope_factors, w.rope_factors, 1, n_pairs);
  } else if (c.rope_factors == RopeFactors::by_context) {
    model.tensor("rope_factors_short.weight", Role::rope_factors, w.rope_factors, 1, n_pairs);
    model.tensor("rope_factors_long.weight", Role::rope_factors, w.rope_factors_long, 1, n_pairs);
  }
  model.tensor("token_embd.weight", Role::embedding, w.token_embd, c.vocab_size, c.hidden_size);
  if (c.learned_positions) {
    model.tensor("position_embd.weight", Role::positions, w.positions, c.context_length,
                 c.hidden_size);
  }
  w.blocks.resize(c.n_layers());
  for (size_t i = 0; i < c.n_layers(); ++i) {
    const Visitor block(c, i, visit);
    visit_block(block, w.blocks[i], c, c.layers[i]);
  }
  model.norm("output_norm", w.output_norm, c.hidden_size);
  if (!c.tied_embeddings) {
    model.linear("output", Role::output, w.output, c.vocab_size, c.hidden_size, false);
  }
}

std::vector<WeightSpec> weight_specs(const Config& config) {
  std::vector<WeightSpec> specs;
  Weights unused;
  visit_weights(unused, config, [&](const WeightSpec& spec, std::span<const WeightPart>) {
    specs.push_back(spec);
  });
  return specs;
}

void check_weight(const GgufTensor* found, const WeightSpec& spec, const std::string& where) {
  if (found == nullptr) throw Error(where, "is missing, wanted " + bracketed(spec.shape()));
  // Files have the shared network's gate as a vector or as a matrix of one row.
  const bool is_one_row = spec.role == Role::shared_weight &&
                          found->shape() == std::vector<uint64_t>{spec.rows, spec.cols};
  if (found->shape() != spec.shape() && !is_one_row) {
    throw Error(where,
                "wanted shape " + bracketed(spec.shape()) + ", found " + bracketed(found->shape()));
  }
  const auto type = dtype_from_gguf(found->type);
  if (!type) {
    throw Error(where, "wanted one of " + dtype_names() + ", found " + gguf_type_name(found->type));
  }
  const bool is_conv = spec.role == Role::delta_conv;
  if ((spec.is_vector() || is_conv) && *type != DType::f32) {
    throw Error(where, std::string(is_conv ? "a convolution" : "a vector") +
                           " must be f32, found " + std::string(name(*type)));
  }
}

/// Parts of a matrix are rows of it, those of a vector elements. Those that take turns begin a turn
/// apart.
void bind_weight(const GgufTensor& tensor, const WeightSpec& spec,
                 std::span<const WeightPart> parts) {
  const Tensor whole{.type = dtype_from_gguf(tensor.type).value(),
                     .rows = spec.rows,
                     .cols = spec.cols,
                     .data = tensor.data.data()};
  size_t first = 0;
  for (const WeightPart& part : parts) {
    if (parts.size() == 1) {
      *part.tensor = whole;
    } else if (spec.turn > 0) {
      *part.tensor = whole.part(first, part.n);
      part.tensor->turn = spec.turn;
      first += spec.turn;
      continue;
    } else if (spec.is_vector()) {
      *part.tensor = {.type = whole.type,
                      .rows = 1,
                      .cols = part.n,
                      .data = whole.data + row_bytes(whole.type, first)};
    } else {
      *part.tensor = whole.part(first, part.n);
    }
    first += part.n;
  }
}

Weights bind_weights(const Gguf& gguf, const Config& config) {
  return bind_weights(gguf.file_name(), gguf.tensors(), config);
}

Weights bind_weights(const std::string& file, std::span<const GgufTensor> tensors,
                     const Config& config) {
  std::map<std::string_view, const GgufTensor*> unbound;
  for (const GgufTensor& tensor : tensors) {
    if (!is_ignored(tensor.name, config)) unbound.emplace(tensor.name, &tensor);
  }
  Weights weights;
  visit_weights(weights, config, [&](const WeightSpec& spec, std::span<const WeightPart> parts) {
    const std::string where = file + ": tensor '" + spec.name + "'";
    const auto found = unbound.extract(spec.name);
    const GgufTensor* tensor = found.empty() ? nullptr : found.mapped();
    check_weight(tensor, spec, where);
    if (spec.role == Role::rope_factors) check_rope_factors(*tensor, where);
    bind_weight(*tensor, spec, parts);
  });
  // A tensor we do not know may change what the model computes (a bias, a gate): never ignore it.
  if (!unbound.empty()) {
    const GgufTensor& tensor = *unbound.begin()->second;
    throw Error(file, "tensor '" + std::string(tensor.name) + "' " + bracketed(tensor.shape()) +
                          " belongs to no part of this model as its metadata describes it");
  }
  if (config.tied_embeddings) weights.output.weight = weights.token_embd;
  return weights;
}

}  // namespace vga
