#pragma once

#include <span>
#include <vector>

#include "vga/vga.h"

namespace vga {

/// What attention works with in one layer, for a text that is one batch from its first token on.
struct AttentionInputs {
  size_t layer = 0;
  std::vector<float> q;     // (rows, n_heads * head_dim) after RoPE
  std::vector<float> k;     // (rows, n_kv_heads * head_dim) after RoPE
  std::vector<float> v;     // (rows, n_kv_heads * head_dim) before any gate
  std::vector<float> gate;  // (rows, n_gates), empty without a gate

  /// Scores of a query's head with the keys up to its own: (query + 1). Minus infinity before the
  /// layer's window.
  std::vector<double> scores(const Config& config, size_t query, size_t head) const;
  /// The softmax of these.
  std::vector<double> weights(const Config& config, size_t query, size_t head) const;
  /// The gate that scales what a query's head gets from a key, the mean over elements if each has
  /// its own; 1 without a gate. It is the query's own on outputs and the key's on values.
  double gate_between(const Config& config, size_t query, size_t key, size_t head) const;
  /// The elements of a head's gate (1 or head_dim of them) that belong to a row.
  std::span<const float> head_gate(const Config& config, size_t row, size_t head) const;
  /// Norm of the value of a row, in a KV head.
  double value_norm(const Config& config, size_t row, size_t kv_head) const;
};

double norm(std::span<const float> x);
double mean(std::span<const float> x);

/// Hands out the AttentionInputs of each layer of each batch.
class AttentionObserver : public Observer {
 public:
  bool wants(Site site) const override;
  bool see(Site site, size_t layer, std::span<float> values) override;

 protected:
  virtual void attention(size_t layer, const AttentionInputs& in) = 0;

 private:
  AttentionInputs in_;
};

/// How much one layer makes of the first token of a text: what explains whether a model can do
/// without it. Means over pieces of text, over heads, and over queries, but for the first 32 of
/// each piece (the first half of a short one), which have little else to look at.
struct FirstTokenUse {
  size_t layer = 0;
  double first_attention = 0;        // attention weight on the first position
  double gated_first_attention = 0;  // times the gate that scales it; the same without a gate
  double value_norm_ratio = 0;       // norm of the first token's value / mean norm of the others
};

/// Runs each of `pieces` (of at least 2 tokens) from the beginning, with attention over everything
/// before. One entry per layer with attention.
std::vector<FirstTokenUse> probe_first_token(const Model& model,
                                             std::span<const std::vector<Token>> pieces,
                                             size_t n_threads);

}  // namespace vga
