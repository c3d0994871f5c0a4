#pragma once

#include <array>
#include <span>
#include <vector>

#include "gguf_image.h"
#include "vga/config.h"
#include "vga/token.h"

namespace vga::test {

/// A transformer written once more from its definition, in double and without anything clever: it
/// follows the options of a Config one by one. Each layer's keys stay as they were before RoPE, and
/// those a token sees are rotated afresh, by their place among what is seen. This is the
/// StreamingLLM reference that windows are compared with.
class NaiveModel {
 public:
  /// `image` holds f32 tensors of a model with this configuration. `context` is the session's,
  /// which chooses among divisors of RoPE's frequencies.
  NaiveModel(const GgufImage& image, const Config& config, size_t context = 0);

  /// Takes the next token, which sees the positions `seen`, ascending, its own the last of them;
  /// layers with a window of their own that is smaller see their last ones instead. Returns its
  /// logits (vocab_size).
  std::vector<double> add(Token token, std::span<const size_t> seen);
  /// The same of a token that sees all.
  std::vector<double> add(Token token);

  /// Attention weights of the last token: (n_layers, n_heads, seen).
  const std::vector<std::vector<std::vector<double>>>& weights() const { return weights_; }
  /// The gate, a mean over elements, that scales what `query` gets from `key` in a head.
  double gate_on(size_t layer, size_t key, size_t query, size_t head) const;
  /// Norm of the first value, before any gate, over the mean norm of the others; of KV heads.
  double value_norm_ratio(size_t layer) const;

 private:
  using Vector = std::vector<double>;

  const float* tensor(const std::string& name) const;
  Vector multiply(const std::string& name, const Vector& x, size_t n_out, bool has_bias,
                  size_t first_row = 0) const;
  Vector normalise(const std::string& name, NormKind kind, const Vector& x, size_t group) const;
  Vector branch_input(const std::string& norm, const Vector& x) const;
  void add_branch(const std::string& norm, Vector y, Vector& x) const;
  Vector frequencies(const RopeTable& table) const;
  Vector rotated(const double* head, size_t layer, size_t position);
  Vector attention(size_t layer, const Vector& x, std::span<const size_t> seen);
  Vector delta_net(size_t layer, const Vector& x);
  Vector network(const std::string& block, const std::string& names, const Vector& h, size_t size,
                 size_t expert = 0) const;
  Vector experts(size_t layer, const Vector& h) const;
  Vector feed_forward(size_t layer, const Vector& x) const;

  const GgufImage& image_;
  Config config_;
  size_t context_;
  std::vector<Vector> frequencies_;  // of each table (rope_dim / 2)
  // (tables, positions met so far, rope_dim / 2) of cosine and sine: tests ask for each many times.
  std::vector<std::vector<std::vector<std::array<double, 2>>>> turns_;
  std::vector<std::vector<Vector>> keys_;    // (n_layers, positions) of (n_kv_heads * head_dim)
  std::vector<std::vector<Vector>> values_;  // the same, before a gate on values
  std::vector<std::vector<Vector>> gates_;   // (n_layers, positions) of (n_gates)
  std::vector<std::vector<Vector>> weights_;
  size_t n_tokens_ = 0;                      // so far
  std::vector<std::vector<Vector>> inputs_;  // (n_layers, positions) of (conv_cols), of delta nets
  std::vector<std::vector<Vector>> states_;  // (n_layers, n_value_heads) of (keys, values)
};

}  // namespace vga::test
