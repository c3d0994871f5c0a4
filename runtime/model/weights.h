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

/// Weights of a delta net. `keys` is n_key_heads * head_dim of Config::delta, `values` the same of
/// value heads.
struct DeltaWeights {
  Linear qkv;          // (2 keys + values, hidden_size)
  Linear gate;         // (values, hidden_size)
  Linear decay;        // (n_value_heads, hidden_size)
  Linear strength;     // (n_value_heads, hidden_size)
  Tensor conv;         // (2 keys + values, conv_size), the last column meets the current token
  Tensor decay_bias;   // (n_value_heads)
  Tensor decay_scale;  // (n_value_heads), negative
  Norm norm;           // (head_dim)
  Linear output;       // (hidden_size, values)
};

/// Weights of a mixture of experts; n, ffn_size and so on are those of Config::experts. Experts'
/// matrices stand one below the other.
struct ExpertWeights {
  Linear router;         // (n, hidden_size)
  Tensor choice_bias;    // (n)
  Linear gate;           // (n * ffn_size, hidden_size)
  Linear up;             // (n * ffn_size, hidden_size)
  Linear down;           // (n * hidden_size, ffn_size)
  Linear shared_weight;  // (1, hidden_size) the gate of the shared network
  Linear shared_gate;    // (shared_ffn_size, hidden_size)
  Linear shared_up;      // (shared_ffn_size, hidden_size)
  Linear shared_down;    // (hidden_size, shared_ffn_size)
};

/// Weights of one transformer block, those that its Config asks for; the others are empty. Shapes
/// are (outputs, inputs).
struct BlockWeights {
  Norm attn_norm;      // (hidden_size), of a delta net as well
  Linear attn_q;       // (n_heads * head_dim, hidden_size)
  Linear attn_k;       // (n_kv_heads * head_dim, hidden_size)
  Linear attn_v;       // (n_kv_heads * head_dim, hidden_size)
  Norm attn_q_norm;    // (head_dim), or of all heads
  Norm attn_k_norm;    // (head_dim), or of all KV heads
  Linear attn_gate;    // (n_gates, gate_inputs)
  Linear attn_output;  // (hidden_size, n_heads * head_dim)
  DeltaWeights delta;
  Norm attn_post_norm;  // (hidden_size)
  Norm ffn_norm;        // (hidden_size)
  Linear ffn_gate;      // (ffn_size, hidden_size)
  Linear ffn_up;        // (ffn_size, hidden_size)
  Linear ffn_down;      // (hidden_size, ffn_size)
  ExpertWeights experts;
  Norm ffn_post_norm;  // (hidden_size)
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
  attn_q,    // with the gate's rows where Config::fused_q_gate says so
  attn_k,
  attn_v,
  attn_gate,  // one for each head, or of few inputs
  attn_wide_gate,
  attn_output,
  delta_qkv,
  delta_gate,
  delta_rates,
  delta_conv,
  delta_output,
  ffn_gate,
  ffn_up,  // with the gate's rows before its own where Config::fused_gate_up says so
  ffn_down,
  router,
  expert_gate,
  expert_up,
  expert_down,
  shared_weight,
  norm,
  bias,  // of anything but a gate
  decay_scale,
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
  size_t experts = 0;  // that its rows are of; 0: no experts' matrix
  size_t turn = 0;     // of its two parts, as Tensor has it; 0: they follow each other

  bool is_vector() const {
    return role == Role::norm || role == Role::bias || role == Role::decay_scale ||
           role == Role::attn_gate_bias || role == Role::rope_factors;
  }
  /// Vectors, small matrices that steer others, and positions are stored as f32, never quantized.
  bool keep_float() const {
    return is_vector() || role == Role::attn_gate || role == Role::positions ||
           role == Role::delta_rates || role == Role::delta_conv || role == Role::router ||
           role == Role::shared_weight;
  }
  /// Of a gate of attention's heads, which an adapter may bring.
  bool is_gate() const {
    return role == Role::attn_gate || role == Role::attn_wide_gate || role == Role::attn_gate_bias;
  }
  /// Whether a low-rank update can be added to its rows.
  bool takes_updates() const { return is_matrix() && experts == 0 && turn == 0; }
  /// A matrix that x is multiplied by, which kernels may want arranged.
  bool is_matrix() const {
    return !is_vector() && role != Role::positions && role != Role::embedding &&
           role != Role::delta_conv;
  }
  std::vector<uint64_t> shape() const {
    if (is_vector() || role == Role::shared_weight) return {cols};
    if (experts > 0) return {experts, rows / experts, cols};
    return {rows, cols};
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
