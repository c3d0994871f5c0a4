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
              bool has_bias) const {
    const LinearPart part{&linear, outputs};
    fused(name, role, std::span(&part, 1), inputs, has_bias);
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
    const Role bias = role == Role::attn_gate ? Role::attn_gate_bias : Role::bias;
    if (has_bias) visit_({prefix_ + name + ".bias", bias, layer_, 1, outputs}, biases);
  }

 private:
  const Config& config_;
  size_t layer_;
  const WeightVisitor& visit_;
  std::string prefix_;
};

void visit_attention(const Visitor& in, BlockWeights& b, const Config& c) {
  if (c.norm_before) in.norm("attn_norm", b.attn_norm, c.hidden_size);
  if (c.fused_qkv) {
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
  if (c.gate) {
    in.linear("attn_gate", Role::attn_gate, b.attn_gate, c.n_gates(), c.gate_inputs(), c.gate.bias);
  }
  in.linear("attn_output", Role::attn_output, b.attn_output, c.hidden_size, c.q_size(),
            c.biases.output);
  if (c.norm_after) in.norm("post_attention_norm", b.attn_post_norm, c.hidden_size);
}

void visit_feed_forward(const Visitor& in, BlockWeights& b, const Config& c) {
  if (c.norm_before) in.norm("ffn_norm", b.ffn_norm, c.hidden_size);
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
  if (c.norm_after) in.norm("post_ffw_norm", b.ffn_post_norm, c.hidden_size);
}

/// What a name that is no part of a model may be: frequencies that old converters stored with each
/// block, which follow from theta.
bool is_ignored(std::string_view name) {
  return name.ends_with("attn_rot_embd");
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
    visit_attention(block, w.blocks[i], c);
    visit_feed_forward(block, w.blocks[i], c);
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
  if (found->shape() != spec.shape()) {
    throw Error(where,
                "wanted shape " + bracketed(spec.shape()) + ", found " + bracketed(found->shape()));
  }
  const auto type = dtype_from_gguf(found->type);
  if (!type) {
    throw Error(where, "wanted one of " + dtype_names() + ", found " + gguf_type_name(found->type));
  }
  if (spec.is_vector() && *type != DType::f32) {
    throw Error(where, "a vector must be f32, found " + std::string(name(*type)));
  }
}

/// Parts of a matrix are rows of it, those of a vector elements.
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
    if (!is_ignored(tensor.name)) unbound.emplace(tensor.name, &tensor);
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
