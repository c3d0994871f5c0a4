#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/attention_probe.h"

namespace vga {

/// How far into a text sinks are looked for, and from which mean attention on it a first token
/// counts as one (Gu et al., arXiv 2410.10781: T and epsilon).
constexpr size_t sink_tokens = 64;
constexpr double sink_threshold = 0.3;
/// Kurtosis is a mean over so many blocks, the first ones (Bondarenko et al., arXiv 2306.12929).
constexpr size_t kurtosis_blocks = 101;
/// Gates below and above these count as closed and open.
constexpr double closed_gate = 0.1;
constexpr double open_gate = 0.9;
/// Tokens of the first block whose attention maps are kept.
constexpr size_t map_tokens = 64;

/// What one query head does. Means over blocks.
struct HeadProbe {
  double first_attention = 0;        // weight on the first token, over all queries of a block
  double gated_first_attention = 0;  // times the gate between query and first token
  double delta_logit = 0;  // score of the first token less the mean of the others, before softmax
  double sink_rate = 0;    // share of blocks whose first 64 queries give the first token > 0.3
  double gate_mean = 0;    // over tokens, and elements if each has its own
  double gate_closed = 0;  // share below 0.1
  double gate_open = 0;    // share above 0.9
  double gate_first = 0;   // of the first token
  std::vector<double> gate_at;          // (block length) mean gate at each position
  std::vector<std::vector<float>> map;  // (map_tokens) of (query + 1): weights of the first block
  std::vector<std::vector<float>> gated_map;  // the same times the gate
};

/// What one value head of a delta net does. Means over all tokens.
struct DeltaHeadProbe {
  double decay = 0;      // what it keeps of its state from a token to the next
  double half_life = 0;  // tokens after which half of it is left, from the mean logarithm of that
  double strength = 0;   // how strongly it writes
};

struct LayerProbe {
  std::vector<HeadProbe> heads;             // (n_heads), of attention
  std::vector<DeltaHeadProbe> delta_heads;  // (n_value_heads), of a delta net
  std::vector<double> expert_load;          // (experts) share of all that were chosen
  std::vector<double> value_norm_ratio;     // (n_kv_heads) first token's norm / mean of the others
  std::vector<double> value_norm_first;     // (n_kv_heads) that norm itself
  double sink_rate = 0;                     // mean over heads
  double residual_norm_first = 0;        // L2 norm of the residual stream behind the layer, at the
  double residual_norm_others = 0;       // first token and at the others
  std::vector<double> value_norm_at;     // (block length) mean over KV heads
  std::vector<double> residual_norm_at;  // (block length)
};

/// An activation tensor as Bondarenko et al. measure it: a row is all numbers of one block.
struct TensorProbe {
  std::string name;     // "blk.0.attn_output"
  double inf_norm = 0;  // largest magnitude of a row, mean over rows
  double kurtosis = 0;  // mean((x - mu)^4) / (std^4 + 1e-6), mean over rows; a Gaussian has 3
};

struct ModelProbe {
  size_t tokens = 0;  // looked at: n_blocks * block_tokens
  size_t n_blocks = 0;
  size_t block_tokens = 0;
  double sink_rate = 0;           // mean over layers with attention and heads, 0 to 1
  double first_attention = 0;     // the same of the attention on the first token
  double max_inf_norm = 0;        // over all tensors
  double max_layer_inf_norm = 0;  // over the layers' outputs alone
  double avg_kurtosis = 0;        // over all tensors
  std::vector<LayerProbe> layers;
  std::vector<TensorProbe> tensors;
  std::vector<Token> first_block;
};

/// Runs blocks of equal length (at least 2 tokens), each from its beginning. Queries of the tokens
/// `left_out` do not count in means of attention.
ModelProbe probe_model(const Model& model, std::span<const std::vector<Token>> blocks,
                       std::span<const Token> left_out, size_t n_threads);

/// Of at least one number.
double average(std::span<const double> x);

}  // namespace vga
