#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vga {

/// Value-State Gated Attention and its relatives (arXiv 2510.09017): g = sigmoid(W s + b) scales
/// what a head delivers.
struct AttentionGate {
  /// What the gate is computed from: the token's values of all KV heads (VGA), the normalised input
  /// of the attention (IGA, earlier work), or no gate at all (vanilla).
  enum class Source { none, input, value };
  /// output: g of the querying token scales its mixed head output (appendix B).
  /// value: g of the attended token scales its value before mixing (eq. 4 and 6).
  enum class Placement { output, value };
  /// One gate per head, or one per element of the head.
  enum class Granularity { head, element };

  Source source = Source::none;
  Placement placement = Placement::output;
  Granularity granularity = Granularity::head;
  bool bias = false;

  explicit operator bool() const { return source != Source::none; }
  bool operator==(const AttentionGate&) const = default;
};

std::string_view name(AttentionGate::Source source);
std::string_view name(AttentionGate::Placement placement);
std::string_view name(AttentionGate::Granularity granularity);

/// How a vector is normalised: by its root mean square, or by its mean and variance.
enum class NormKind { rms, layer };
/// Whether queries and keys are normalised before they are rotated: not at all, each head by
/// itself, or all heads together.
enum class QkNorm { none, head, all };
/// What stands between the matrices of a feed-forward network. gelu_tanh is the approximation
/// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), gelu the exact one with erf.
enum class Activation { silu, gelu_tanh, gelu, relu, sigmoid };

/// The angles of a rotary position embedding: pair i of rope_dim / 2 turns by
/// theta^(-2i / rope_dim) radians per position, scaled for texts longer than those of the training.
struct RopeTable {
  /// linear: divided by `factor`. yarn (arXiv 2309.00071): so are the slow pairs alone, from those
  /// that turn beta_slow times within the original context on; those that turn more than beta_fast
  /// times stay as they are, between the two it is a ramp.
  enum class Scaling { none, linear, yarn };

  double theta = 10000;
  Scaling scaling = Scaling::none;
  double factor = 1;
  double beta_fast = 32;
  double beta_slow = 1;
  float magnitude = 1;  // of cosine and sine

  bool operator==(const RopeTable&) const = default;
};
constexpr size_t max_rope_tables = 2;

/// Divisors that each pair of every table has beside that, a tensor of the file: none, one for all
/// contexts (llama3), or one for contexts up to the original one and another for longer ones
/// (longrope).
enum class RopeFactors { none, fixed, by_context };

/// Which linear layers add a bias: those that make q, k and v, the attention's output, the
/// feed-forward network.
struct Biases {
  bool qkv = false;
  bool output = false;
  bool ffn = false;

  bool operator==(const Biases&) const = default;
};

/// What mixes the tokens of a layer: attention over a KV cache, or a delta net, which remembers
/// what it has read in a state of fixed size.
enum class Mixer { attention, delta };

/// What one layer may have for itself.
struct LayerConfig {
  Mixer mixer = Mixer::attention;
  size_t window = 0;               // positions that a token sees, its own among them; 0: all
  std::optional<size_t> rope = 0;  // the table that rotates its queries and keys; none: not rotated
  bool experts = false;            // its feed-forward network is a mixture of experts

  bool operator==(const LayerConfig&) const = default;
};

/// The gated delta nets (arXiv 2412.06464) of a model's delta layers. A value head has a state S of
/// (head_dim keys, head_dim values). A token lets it decay by a, and writes its value v under its
/// key k as strongly as b says: S <- a S; S <- S + k (b (v - S^T k))^T. Its query reads S^T q.
struct DeltaNet {
  size_t n_key_heads = 0;    // of queries and of keys
  size_t n_value_heads = 0;  // a multiple of n_key_heads
  size_t head_dim = 0;
  size_t conv_size = 0;  // tokens that the convolution before it sees, its own among them
  /// Value head g reads key head g / (n_value_heads / n_key_heads), else g % n_key_heads.
  bool grouped = false;
  bool fused_rates = false;  // the file has the strengths and decays of each key head in one tensor

  size_t key_size() const { return n_key_heads * head_dim; }
  size_t value_size() const { return n_value_heads * head_dim; }
  /// Columns that are convolved: queries, keys, values.
  size_t conv_cols() const { return 2 * key_size() + value_size(); }
  bool operator==(const DeltaNet&) const = default;
};

/// The feed-forward networks of layers that have many, of which each token takes some.
struct Experts {
  /// How a router's outputs become probabilities: over all experts, or for each by itself.
  enum class Router { softmax, sigmoid };

  size_t n = 0;
  size_t n_used = 0;    // the likeliest
  size_t ffn_size = 0;  // of each
  Router router = Router::softmax;
  bool normalised = true;      // probabilities of those that are used are divided by their sum
  float scale = 1;             // and multiplied by this
  bool choice_bias = false;    // a bias for each expert counts in the choice, not in what it weighs
  size_t shared_ffn_size = 0;  // of one network that every token takes besides; 0: none
  bool shared_gate = false;    // what that gives is multiplied by a sigmoid gate, one for the token

  bool operator==(const Experts&) const = default;
};

/// The numbers that define a model, validated: every field is in a range that the rest of the
/// runtime may rely on without checking again. A family of models is nothing but a choice of these
/// options: families.h reads and writes them, and nobody else asks which family it is.
struct Config {
  std::string family = "vga";  // general.architecture, for people and for writing back
  std::string model_name;      // general.name, for people; may be empty
  size_t vocab_size = 0;
  size_t context_length = 0;  // tokens the model was trained to see at once
  size_t hidden_size = 0;
  size_t ffn_size = 0;  // of layers without experts
  size_t n_heads = 0;
  size_t n_kv_heads = 0;  // divides n_heads; query head h uses KV head h / (n_heads / n_kv_heads)
  size_t head_dim = 0;
  std::vector<LayerConfig> layers;
  size_t n_draft_layers = 0;  // that follow in the file, and are left out: they only draft tokens
  bool tied_embeddings = false;  // the output matrix is the embedding

  // Norms and linear layers.
  NormKind norm = NormKind::rms;
  float norm_eps = 1e-5f;
  bool norm_before = true;  // a branch reads the normalised residual stream, else the stream itself
  bool norm_after = false;  // what a branch gives is normalised before it is added
  QkNorm qk_norm = QkNorm::none;
  Biases biases;
  bool fused_qkv = false;      // the file has q, k and v as one tensor, rows one after the other
  bool fused_gate_up = false;  // the same for the gate and the up matrix of the FFN
  bool fused_q_gate = false;   // attn_q has, head by head, the rows of q and then those of the gate
  bool ffn_norm_is_post_attention = false;  // what the file calls the norm before the FFN

  // Positions.
  size_t rope_dim = 0;  // even, at most head_dim: the leading part of each head that is rotated; 0
                        // where no layer rotates
  bool half_split = true;              // pairs are (i, i + rope_dim / 2), else (2i, 2i + 1)
  std::vector<RopeTable> rope_tables;  // at most max_rope_tables
  RopeFactors rope_factors = RopeFactors::none;
  size_t original_context = 0;     // where yarn and by_context count from, 0 without them
  bool learned_positions = false;  // a vector for each position is added to the embedding

  // Scales and caps. A cap c bends x to c tanh(x / c); 0 is none.
  float embedding_scale = 1;  // of what the embedding gives
  float residual_scale = 1;   // of what a branch adds
  float score_scale = 0;      // of q k^T, 1 / sqrt(head_dim) in most models
  float score_cap = 0;
  float logit_scale = 1;  // logits are multiplied by it
  float logit_cap = 0;

  // Feed-forward network: down(activation(gate(x)) * up(x)), or down(activation(up(x))).
  Activation activation = Activation::silu;
  bool ffn_gated = true;
  bool parallel_residual = false;  // attention and FFN both read the stream before either is added

  AttentionGate gate;  // of the attention layers
  DeltaNet delta;      // where layers have it
  Experts experts;     // the same

  bool has(Mixer mixer) const;
  bool has_experts() const;
  size_t n_layers() const { return layers.size(); }
  size_t q_size() const { return n_heads * head_dim; }
  size_t kv_size() const { return n_kv_heads * head_dim; }
  size_t heads_per_kv_head() const { return n_heads / n_kv_heads; }
  /// Inputs and outputs of the gate's projection (0 without a gate).
  size_t gate_inputs() const;
  size_t n_gates() const;

  bool operator==(const Config&) const = default;
};

/// Limits no real model of these families comes near; they keep every size product far from
/// overflow.
constexpr size_t max_layers = 1024;
constexpr size_t max_width = 1 << 20;  // hidden, ffn, heads * head_dim
constexpr size_t max_vocab = 1 << 22;
constexpr size_t max_context = 1 << 28;
constexpr size_t max_state_dim = 512;  // of a delta net's head
constexpr size_t max_conv_size = 8;
constexpr size_t max_experts = 4096;
constexpr size_t max_used_experts = 64;
constexpr size_t expert_multiple = 16;  // of what an expert's matrices have for rows

/// Checks ranges and divisibility; an Error naming `file` and the GGUF key of the field at fault.
void validate(const Config& config, std::string_view file);

}  // namespace vga
