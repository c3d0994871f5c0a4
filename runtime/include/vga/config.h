#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace vga {

class Gguf;
class GgufWriter;

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
};

std::string_view name(AttentionGate::Source source);
std::string_view name(AttentionGate::Placement placement);
std::string_view name(AttentionGate::Granularity granularity);

/// The numbers that define a model, validated: every field is in a range that the rest of the
/// runtime may rely on without checking again.
struct Config {
  /// vga: gated, RoPE in half-split order. llama: as llama.cpp writes it, RoPE on adjacent pairs.
  enum class Architecture { vga, llama };

  Architecture architecture = Architecture::vga;
  std::string model_name;  // general.name, for people; may be empty
  size_t vocab_size = 0;
  size_t context_length = 0;  // tokens the model was trained to see at once
  size_t hidden_size = 0;
  size_t ffn_size = 0;
  size_t n_layers = 0;
  size_t n_heads = 0;
  size_t n_kv_heads = 0;  // divides n_heads; query head h uses KV head h / (n_heads / n_kv_heads)
  size_t head_dim = 0;
  size_t rope_dim = 0;  // even, at most head_dim: the leading part of each head that is rotated
  double rope_theta = 10000;
  double rope_scale = 1;  // positions are divided by it (linear scaling)
  bool rope_factors =
      false;  // each frequency has a divisor of its own, in Weights (llama3 scaling)
  float rms_eps = 1e-5f;
  bool tied_embeddings = false;  // the output matrix is the embedding
  AttentionGate gate;

  size_t q_size() const { return n_heads * head_dim; }
  size_t kv_size() const { return n_kv_heads * head_dim; }
  size_t heads_per_kv_head() const { return n_heads / n_kv_heads; }
  /// Inputs and outputs of the gate's projection (0 without a gate).
  size_t gate_inputs() const;
  size_t n_gates() const;
};

/// Why a model with the RoPE scaling that files call `type` cannot run: "scales attention as well".
std::string_view rope_scaling_obstacle(std::string_view type);

/// Limits no real model of this family comes near; they keep every size product far from overflow.
constexpr size_t max_layers = 1024;
constexpr size_t max_width = 1 << 20;  // hidden, ffn, heads * head_dim
constexpr size_t max_vocab = 1 << 22;
constexpr size_t max_context = 1 << 28;

/// Checks ranges and divisibility; an Error naming `file` and the GGUF key of the field at fault.
void validate(const Config& config, std::string_view file);

/// Reads and validates `general.architecture` and `<architecture>.*`. A vga file without a
/// complete, known gate variant is refused. `vocab_size` falls back to the number of tokens.
Config read_config(const Gguf& gguf);
/// Writes the same keys.
void write_config(const Config& config, GgufWriter& writer);

}  // namespace vga
