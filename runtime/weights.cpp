#include "weights.h"

#include <cmath>
#include <cstring>
#include <set>

#include "error.h"

namespace vga {
namespace {

enum class Role { vector, gate, matrix };

/// Names every weight of a model once: visit(name, tensor, rows, cols, role).
template <class Visit>
void visit_weights(Weights& w, const Config& c, Visit&& visit) {
  if (c.rope_factors) {
    visit("rope_freqs.weight", w.rope_factors, 1, c.rope_dim / 2, Role::vector);
  }
  visit("token_embd.weight", w.token_embd, c.vocab_size, c.hidden_size, Role::matrix);
  w.blocks.resize(c.n_layers);
  for (size_t i = 0; i < c.n_layers; ++i) {
    BlockWeights& b = w.blocks[i];
    const auto in_block = [&](std::string_view name, Tensor& tensor, size_t rows, size_t cols,
                              Role role) {
      visit("blk." + std::to_string(i) + "." + std::string(name), tensor, rows, cols, role);
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
  visit("output_norm.weight", w.output_norm, 1, c.hidden_size, Role::vector);
  if (!c.tied_embeddings) {
    visit("output.weight", w.output, c.vocab_size, c.hidden_size, Role::matrix);
  }
}

std::string shape_text(uint64_t rows, uint64_t cols, bool vector) {
  if (vector) return "(" + std::to_string(cols) + ")";
  return "(" + std::to_string(rows) + ", " + std::to_string(cols) + ")";
}

std::string shape_text(const GgufTensor& t) {
  std::string text = "(";
  for (uint32_t d = t.n_dims; d-- > 0;) text += std::to_string(t.dims[d]) + (d > 0 ? ", " : ")");
  return text;
}

/// Frequencies that old converters stored with each block; they follow from rope_theta.
bool is_ignored(std::string_view name) {
  return name.ends_with("attn_rot_embd");
}

Tensor bind(const Gguf& gguf, const std::string& name, size_t rows, size_t cols, Role role) {
  const std::string where = gguf.file_name() + ": tensor '" + name + "'";
  const GgufTensor* found = gguf.find_tensor(name);
  const bool vector = role == Role::vector;
  if (found == nullptr) {
    throw Error(where, "is missing, wanted " + shape_text(rows, cols, vector));
  }
  const bool fits = found->n_dims == (vector ? 1u : 2u) && found->dims[0] == cols &&
                    (vector || found->dims[1] == rows);
  if (!fits) {
    throw Error(where,
                "wanted shape " + shape_text(rows, cols, vector) + ", found " + shape_text(*found));
  }
  const auto type = dtype_from_gguf(found->type);
  if (!type) {
    throw Error(where, "wanted one of " + dtype_names() + ", found " + gguf_type_name(found->type));
  }
  if (vector && *type != DType::f32) {
    throw Error(where, "a vector must be f32, found " + std::string(vga::name(*type)));
  }
  return {*type, rows, cols, found->data.data()};
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

std::vector<WeightSpec> weight_specs(const Config& config) {
  std::vector<WeightSpec> specs;
  Weights unused;
  visit_weights(
      unused, config, [&](std::string name, Tensor&, size_t rows, size_t cols, Role role) {
        specs.push_back({std::move(name), rows, cols, role == Role::vector, role != Role::matrix});
      });
  return specs;
}

Weights bind_weights(const Gguf& gguf, const Config& config) {
  Weights weights;
  std::set<std::string, std::less<>> known;
  visit_weights(weights, config,
                [&](const std::string& name, Tensor& tensor, size_t rows, size_t cols, Role role) {
                  tensor = bind(gguf, name, rows, cols, role);
                  known.insert(name);
                });
  // A tensor we do not know may change what the model computes (a bias, a gate): never ignore it.
  for (const GgufTensor& tensor : gguf.tensors()) {
    if (!known.contains(tensor.name) && !is_ignored(tensor.name)) {
      throw Error(gguf.file_name(), "tensor '" + std::string(tensor.name) + "' " +
                                        shape_text(tensor) +
                                        " belongs to no part of this model as its metadata "
                                        "describes it");
    }
  }
  if (config.rope_factors) check_rope_factors(weights.rope_factors, gguf.file_name());
  if (config.tied_embeddings) weights.output = weights.token_embd;
  return weights;
}

}  // namespace vga
