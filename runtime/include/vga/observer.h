#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace vga {

/// What a forward pass computes and an Observer can look at, in order. One call for each layer and
/// site; a name is llama.cpp's where the site is a weight's output.
enum class Site {
  attn_norm,       // (rows, hidden_size) input of the attention, or of a delta net
  attn_q,          // (rows, n_heads * head_dim) before RoPE
  attn_k,          // (rows, n_kv_heads * head_dim) before RoPE
  attn_v,          // (rows, n_kv_heads * head_dim) before any gate
  attn_gate,       // (rows, n_gates) after the sigmoid; not without a gate
  q_rotated,       // (rows, n_heads * head_dim) after RoPE
  k_rotated,       // (rows, n_kv_heads * head_dim) after RoPE
  attn_mixed,      // (rows, n_heads * head_dim) what attention mixed, times a gate on outputs
  attn_output,     // (rows, hidden_size) output of the attention
  delta_decay,     // (rows, n_value_heads) what a delta net's heads keep of their states
  delta_strength,  // (rows, n_value_heads) how strongly they write into them
  delta_mixed,     // (rows, value_size) what they read, normalised and gated
  delta_output,    // (rows, hidden_size) output of the delta net
  attn_residual,   // (rows, hidden_size) the residual stream between attention and MLP
  ffn_norm,        // (rows, hidden_size) input of the MLP
  experts,         // (rows, 2 * n_used) the experts chosen, and what each weighs
  ffn_up,          // (rows, ffn_size), with experts (rows, n_used * ffn_size of each)
  ffn_mixed,       // (rows, the same) silu(gate) * up
  ffn_down,        // (rows, hidden_size) output of the MLP
  block,           // (rows, hidden_size) the residual stream behind the layer
  output_norm,     // (rows that want logits, hidden_size), once, behind the last layer
};

std::string_view name(Site site);

/// Looks on while a Session computes, and may meddle: for probes and simulations.
class Observer {
 public:
  virtual ~Observer() = default;
  /// Nothing is copied for sites that are not wanted.
  virtual bool wants(Site site) const = 0;
  /// `values` are all rows of the batch. True if they were changed: then what follows is computed
  /// from the changed ones.
  virtual bool see(Site site, size_t layer, std::span<float> values) = 0;
};

}  // namespace vga
