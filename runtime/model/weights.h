#pragma once

#include <array>
#include <string>
#include <vector>

#include "model/tensor.h"
#include "vga/config.h"

namespace vga {

/// Weights of one transformer block. Shapes are (outputs, inputs).
struct BlockWeights {
  Tensor attn_norm;    // (hidden_size)
  Tensor attn_q;       // (n_heads * head_dim, hidden_size)
  Tensor attn_k;       // (n_kv_heads * head_dim, hidden_size)
  Tensor attn_v;       // (n_kv_heads * head_dim, hidden_size)
  Tensor attn_gate;    // (n_gates, gate_inputs), absent without a gate
  Tensor attn_gate_b;  // (n_gates), absent without a bias
  Tensor attn_output;  // (hidden_size, n_heads * head_dim)
  Tensor ffn_norm;     // (hidden_size)
  Tensor ffn_gate;     // (ffn_size, hidden_size)
  Tensor ffn_up;       // (ffn_size, hidden_size)
  Tensor ffn_down;     // (hidden_size, ffn_size)
};

/// The matrices of a block, all that it may have; an absent gate is among them, empty.
std::array<Tensor*, 8> matrices(BlockWeights& block);
/// Its vectors, likewise.
std::array<Tensor*, 3> vectors(BlockWeights& block);

struct Weights {
  Tensor rope_factors;  // (rope_dim / 2) divisors of RoPE's frequencies, absent where all are 1
  Tensor token_embd;    // (vocab_size, hidden_size)
  Tensor output_norm;   // (hidden_size)
  Tensor output;        // (vocab_size, hidden_size); the embedding itself when tied
  std::vector<BlockWeights> blocks;
};

/// What a model of a given Config is made of, in file order.
struct WeightSpec {
  std::string name;  // llama.cpp's: "blk.0.attn_q.weight"
  size_t rows;       // 1 for a vector
  size_t cols;
  bool is_vector;   // of one dimension
  bool keep_float;  // vectors and gates: stored as f32, never quantized

  std::vector<uint64_t> shape() const {
    return is_vector ? std::vector<uint64_t>{cols} : std::vector<uint64_t>{rows, cols};
  }
};
std::vector<WeightSpec> weight_specs(const Config& config);

/// The one place where tensor names become typed views. Every tensor that `config` asks for must be
/// present with its exact shape and a type we compute with; anything else, and any tensor that the
/// config does not ask for, is an Error naming the tensor, what was wanted and what was found.
Weights bind_weights(const Gguf& gguf, const Config& config);

}  // namespace vga
