#include "model/weights.h"

#include <cmath>
#include <cstring>
#include <set>

#include "base/text.h"
#include "gguf/gguf.h"
#include "vga/error.h"

namespace vga {
namespace {

enum class Role { vector, gate, matrix };

/// Describes every weight of a model once: visit(spec, tensor).
template <class Visit>
void visit_weights(Weights& w, const Config& c, Visit&& visit) {
  const auto weight = [&](std::string name, Tensor& tensor, size_t rows, size_t cols, Role role) {
    visit(WeightSpec{std::move(name), rows, cols, role == Role::vector, role != Role::matrix},
          tensor);
  };
  if (c.rope_factors) {
    weight("rope_freqs.weight", w.rope_factors, 1, c.rope_dim / 2, Role::vector);
  }
  weight("token_embd.weight", w.token_embd, c.vocab_size, c.hidden_size, Role::matrix);
  w.blocks.resize(c.n_layers);
  for (size_t i = 0; i < c.n_layers; ++i) {
    BlockWeights& b = w.blocks[i];
    const auto in_block = [&](std::string_view name, Tensor& tensor, size_t rows, size_t cols,
                              Role role) {
      weight("blk." + std::to_string(i) + "." + std::string(name), tensor, rows, cols, role);
    };
    in_block("attn_norm.weight", b.attn_norm, 1, c.hidden_size, Role::vector);
    in_block("attn_q.weight", b.attn_q, c.q_size(), c.hidden_size, Role::matrix);
    in_block("attn_k.weight", b.attn_k, c.kv_size(), c.hidden_size, Role::matrix);
    in_block("attn_v.weight", b.attn_v, c.kv_size(), c.hidden_size, Role::matrix);
    if (c.gate) {
      in_block("attn_gate.weight", b.attn_gate, c.n_gates(), c.gate_inputs(), Role::gate);
    }
    if (c.gate.bias) in_block("attn_gate.bias", b.attn_gate_b, 1, c.n_gates(), Role::vector);
    in_block("attn_output.weight", b.attn_output, c.hidden_size, c.q_size(), Role::matrix);
    in_block("ffn_norm.weight", b.ffn_norm, 1, c.hidden_size, Role::vector);
    in_block("ffn_gate.weight", b.ffn_gate, c.ffn_size, c.hidden_size, Role::matrix);
    in_block("ffn_up.weight", b.ffn_up, c.ffn_size, c.hidden_size, Role::matrix);
    in_block("ffn_down.weight", b.ffn_down, c.hidden_size, c.ffn_size, Role::matrix);
  }
  weight("output_norm.weight", w.output_norm, 1, c.hidden_size, Role::vector);
  if (!c.tied_embeddings) {
    weight("output.weight", w.output, c.vocab_size, c.hidden_size, Role::matrix);
  }
}

/// Frequencies that old converters stored with each block; they follow from rope_theta.
bool is_ignored(std::string_view name) {
  return name.ends_with("attn_rot_embd");
}

Tensor bind(const Gguf& gguf, const WeightSpec& spec) {
  const std::string where = gguf.file_name() + ": tensor '" + spec.name + "'";
  const GgufTensor* found = gguf.find_tensor(spec.name);
  if (found == nullptr) throw Error(where, "is missing, wanted " + bracketed(spec.shape()));
  if (found->shape() != spec.shape()) {
    throw Error(where,
                "wanted shape " + bracketed(spec.shape()) + ", found " + bracketed(found->shape()));
  }
  const auto type = dtype_from_gguf(found->type);
  if (!type) {
    throw Error(where, "wanted one of " + dtype_names() + ", found " + gguf_type_name(found->type));
  }
  if (spec.is_vector && *type != DType::f32) {
    throw Error(where, "a vector must be f32, found " + std::string(name(*type)));
  }
  return {*type, spec.rows, spec.cols, found->data.data()};
}

void check_rope_factors(const Tensor& factors, const std::string& file) {
  for (size_t i = 0; i < factors.cols; ++i) {
    float factor = 0;
    std::memcpy(&factor, factors.data + i * sizeof factor, sizeof factor);
    if (std::isfinite(factor) && factor > 0) continue;
    throw Error(file, "tensor 'rope_freqs.weight': wanted positive numbers, found " +
                          std::to_string(factor) + " at " + std::to_string(i));
  }
}

}  // namespace

std::array<Tensor*, 8> matrices(BlockWeights& b) {
  return {&b.attn_q,      &b.attn_k,   &b.attn_v, &b.attn_gate,
          &b.attn_output, &b.ffn_gate, &b.ffn_up, &b.ffn_down};
}

std::array<Tensor*, 3> vectors(BlockWeights& b) {
  return {&b.attn_norm, &b.attn_gate_b, &b.ffn_norm};
}

std::vector<WeightSpec> weight_specs(const Config& config) {
  std::vector<WeightSpec> specs;
  Weights unused;
  visit_weights(unused, config,
                [&](WeightSpec spec, Tensor&) { specs.push_back(std::move(spec)); });
  return specs;
}

Weights bind_weights(const Gguf& gguf, const Config& config) {
  Weights weights;
  std::set<std::string, std::less<>> known;
  visit_weights(weights, config, [&](const WeightSpec& spec, Tensor& tensor) {
    tensor = bind(gguf, spec);
    known.insert(spec.name);
  });
  // A tensor we do not know may change what the model computes (a bias, a gate): never ignore it.
  for (const GgufTensor& tensor : gguf.tensors()) {
    if (!known.contains(tensor.name) && !is_ignored(tensor.name)) {
      throw Error(gguf.file_name(), "tensor '" + std::string(tensor.name) + "' " +
                                        bracketed(tensor.shape()) +
                                        " belongs to no part of this model as its metadata "
                                        "describes it");
    }
  }
  if (config.rope_factors) check_rope_factors(weights.rope_factors, gguf.file_name());
  if (config.tied_embeddings) weights.output = weights.token_embd;
  return weights;
}

}  // namespace vga
