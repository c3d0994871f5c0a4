#pragma once

#include <span>
#include <vector>

#include "gguf_image.h"
#include "vga/config.h"
#include "vga/token.h"

namespace vga::test {

/// A transformer written once more from its definition, in double and without anything clever: it
/// keeps each layer's keys as they were before RoPE and rotates those a token sees afresh, by their
/// place among what is seen. This is the StreamingLLM reference that windows are compared with.
class NaiveModel {
 public:
  /// `image` holds f32 tensors of a model with this configuration.
  NaiveModel(const GgufImage& image, const Config& config);

  /// Takes the next token, which sees the positions `seen`, ascending, its own the last of them.
  /// Returns its logits (vocab_size).
  std::vector<double> add(Token token, std::span<const size_t> seen);

  /// Attention weights of the last token: (n_layers, n_heads, seen).
  const std::vector<std::vector<std::vector<double>>>& weights() const { return weights_; }
  /// The gate, a mean over elements, that scales what `query` gets from `key` in a head.
  double gate_on(size_t layer, size_t key, size_t query, size_t head) const;
  /// Norm of the first value, before any gate, over the mean norm of the others; of KV heads.
  double value_norm_ratio(size_t layer) const;

 private:
  using Vector = std::vector<double>;

  const float* tensor(const std::string& name) const;
  Vector multiply(const std::string& name, const Vector& x, size_t n_out) const;
  Vector normalise(const std::string& name, const Vector& x) const;
  Vector rotated(const double* head, size_t position);
  Vector attention(size_t layer, const Vector& x, std::span<const size_t> seen);

  const GgufImage& image_;
  Config config_;
  std::vector<std::vector<Vector>> keys_;    // (n_layers, positions) of (n_kv_heads * head_dim)
  std::vector<std::vector<Vector>> values_;  // the same, before a gate on values
  std::vector<std::vector<Vector>> gates_;   // (n_layers, positions) of (n_gates)
  std::vector<std::vector<Vector>> weights_;
  std::vector<std::vector<double>> angles_;  // (positions met so far, rope_dim / 2)
};

}  // namespace vga::test
