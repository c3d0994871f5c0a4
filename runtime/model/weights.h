#pragma once

#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "model/tensor.h"
#include "vga/config.h"

namespace vga {

class Gguf;
struct GgufTensor;

/// Weights of one transformer block, those that its Config asks for; the others are empty. Shapes
/// are (outputs, inputs).
struct BlockWeights {
  Norm attn_norm;       // (hidden_size)
  Linear attn_q;        // (n_heads * head_dim, hidden_size)
  Linear attn_k;        // (n_kv_heads * head_dim, hidden_size)
  Linear attn_v;        // (n_kv_heads * head_dim, hidden_size)
  Norm attn_q_norm;     // (head_dim), or of all heads
  Norm attn_k_norm;     // (head_dim), or of all KV heads
  Linear attn_gate;     // (n_gates, gate_inputs)
  Linear attn_output;   // (hidden_size, n_heads * head_dim)
  Norm attn_post_norm;  // (hidden_size)
  Norm ffn_norm;        // (hidden_size)
  Linear ffn_gate;      // (ffn_size, hidden_size)
  Linear ffn_up;        // (ffn_size, hidden_size)
  Linear ffn_down;      // (hidden_size, ffn_size)
  Norm ffn_post_norm;   // (hidden_size)
};

struct Weights {
  Tensor rope_factors;       // (rope_dim / 2) divisors of RoPE's frequencies; of short contexts
  Tensor rope_factors_long;  // the same for longer ones than Config::original_context
  Tensor token_embd;         // (vocab_size, hidden_size)
  Tensor positions;          // (context_length, hidden_size), learned ones
  Norm output_norm;          // (hidden_size)
  Linear output;             // (vocab_size, hidden_size); the embedding itself when tied
  std::vector<BlockWeights> blocks;
};

/// What a tensor of the file is for.
enum class Role {
  embedding,
  positions,
  output,
  attn_qkv,  // all three, or one of:
  attn_q,
  attn_k,
  attn_v,
  attn_gate,
  attn_output,
  ffn_gate,
  ffn_up,  // with the gate's rows before its own where Config::fused_gate_up says so
  ffn_down,
  norm,
  bias,  // of anything but a gate
  attn_gate_bias,
  rope_factors,
};

/// One tensor of a model of a given Config.
struct WeightSpec {
  static constexpr size_t no_layer = std::numeric_limits<size_t>::max();

  std::string name;  // llama.cpp's: "blk.0.attn_q.weight"
  Role role;
  size_t layer;  // or no_layer
  size_t rows;   // 1 for a vector
  size_t cols;

  bool is_vector() const {
    return role == Role::norm || role == Role::bias || role == Role::attn_gate_bias ||
           role == Role::rope_factors;
  }
  /// Vectors, gates and positions are stored as f32, never quantized.
  bool keep_float() const {
    return is_vector() || role == Role::attn_gate || role == Role::positions;
  }
  /// A matrix that x is multiplied by, which kernels may want arranged.
  bool is_matrix() const {
    return !is_vector() && role != Role::positions && role != Role::embedding;
  }
  std::vector<uint64_t> shape() const {
    return is_vector() ? std::vector<uint64_t>{cols} : std::vector<uint64_t>{rows, cols};
  }
};

/// Rows of a tensor of the file that are a weight by themselves; of a vector, elements.
struct WeightPart {
  Tensor* tensor;
  size_t n;
  Linear* linear = nullptr;  // whose matrix it is; null for what is none
};

/// Describes every weight of a model once, in file order, block by block: what the file calls it,
/// and the parts that it is bound to, one unless it is fused. The output of a model with tied
/// embeddings is not visited.
using WeightVisitor =
    std::function<void(const WeightSpec& spec, std::span<const WeightPart> parts)>;
void visit_weights(Weights& weights, const Config& config, const WeightVisitor& visit);

/// What a model of a given Config is made of, in file order.
std::vector<WeightSpec> weight_specs(const Config& config);

/// An Error that begins with `where` unless `found` (null where there is none) is such a tensor, of
/// a type we compute with.
void check_weight(const GgufTensor* found, const WeightSpec& spec, const std::string& where);
/// Lets the parts of a weight view such a tensor.
void bind_weight(const GgufTensor& tensor, const WeightSpec& spec,
                 std::span<const WeightPart> parts);

/// The one place where tensor names become typed views. Every tensor that `config` asks for must be
/// present with its exact shape and a type we compute with; anything else, and any tensor that the
/// config does not ask for, is an Error naming the tensor, what was wanted and what was found.
Weights bind_weights(const Gguf& gguf, const Config& config);
/// The same for tensors of another source; `file` is for messages.
Weights bind_weights(const std::string& file, std::span<const GgufTensor> tensors,
                     const Config& config);

}  // namespace vga
