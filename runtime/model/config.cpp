#include "vga/config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "vga/error.h"

namespace vga {
namespace {

using Gate = AttentionGate;

constexpr std::array<std::string_view, 3> source_names = {"none", "input", "value"};
constexpr std::array<std::string_view, 2> placement_names = {"output", "value"};
constexpr std::array<std::string_view, 2> granularity_names = {"head", "element"};

/// Says which key of a Config is wrong.
class Check {
 public:
  Check(const Config& config, std::string_view file)
      : file_(file), prefix_("key '" + config.family + ".") {}

  void that(bool good, std::string_view key, const std::string& wanted,
            const std::string& found) const {
    if (good) return;
    throw Error(file_, prefix_ + std::string(key) + "': wanted " + wanted + ", found " + found);
  }
  void in_range(std::string_view key, size_t value, size_t max) const {
    that(value >= 1 && value <= max, key, "1 to " + std::to_string(max), std::to_string(value));
  }
  void positive(std::string_view key, double value, double max) const {
    that(std::isfinite(value) && value > 0 && value <= max, key,
         "a positive number up to " + std::to_string(max), std::to_string(value));
  }
  void not_negative(std::string_view key, double value) const {
    that(std::isfinite(value) && value >= 0, key, "a positive number, or 0", std::to_string(value));
  }

 private:
  std::string_view file_;
  std::string prefix_;
};

void check_rope(const Config& c, const Check& check) {
  check.that(c.rope_tables.size() <= max_rope_tables, "rope.freq_base",
             "at most " + std::to_string(max_rope_tables) + " tables of angles",
             std::to_string(c.rope_tables.size()));
  for (const LayerConfig& layer : c.layers) {
    check.that(layer.window <= max_context, "attention.sliding_window",
               "up to " + std::to_string(max_context), std::to_string(layer.window));
    check.that(!layer.rope || *layer.rope < c.rope_tables.size(), "rope.freq_base",
               "a table of angles for each layer", "none");
  }
  if (c.rope_tables.empty()) return;
  check.that(c.rope_dim >= 2 && c.rope_dim % 2 == 0 && c.rope_dim <= c.head_dim,
             "rope.dimension_count",
             "an even number from 2 to the head's " + std::to_string(c.head_dim),
             std::to_string(c.rope_dim));
  bool counts = c.rope_factors == RopeFactors::by_context;
  for (const RopeTable& table : c.rope_tables) {
    const bool is_first = &table == c.rope_tables.data();
    const bool is_yarn = table.scaling == RopeTable::Scaling::yarn;
    counts = counts || is_yarn;
    check.positive(is_first ? "rope.freq_base" : "rope.freq_base_swa", table.theta, 1e12);
    check.that(!is_yarn || table.theta > 1, "rope.freq_base", "more than 1, as yarn wants",
               std::to_string(table.theta));
    check.positive("rope.scaling.factor", table.factor, 1e6);
    check.positive("rope.scaling.yarn_beta_fast", table.beta_fast, 1e6);
    check.positive("rope.scaling.yarn_beta_slow", table.beta_slow, 1e6);
    check.positive("rope.scaling.attn_factor", double{table.magnitude}, 1e6);
  }
  if (counts) {
    check.in_range("rope.scaling.original_context_length", c.original_context, max_context);
  }
}

void check_scales(const Config& c, const Check& check) {
  check.positive(
      c.norm == NormKind::rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
      double{c.norm_eps}, 1);
  check.positive("embedding_scale", double{c.embedding_scale}, 1e6);
  check.positive("residual_scale", double{c.residual_scale}, 1e6);
  check.positive("logit_scale", double{c.logit_scale}, 1e6);
  check.positive("attention.scale", double{c.score_scale}, 1e6);
  check.not_negative("attn_logit_softcapping", double{c.score_cap});
  check.not_negative("final_logit_softcapping", double{c.logit_cap});
}

void check_delta(const Config& c, const Check& check) {
  if (!c.has(Mixer::delta)) return;
  check.that(c.has(Mixer::attention), "full_attention_interval",
             "a layer with attention among the " + std::to_string(c.n_layers()), "none");
  const DeltaNet& d = c.delta;
  check.in_range("ssm.group_count", d.n_key_heads, max_width);
  check.in_range("ssm.time_step_rank", d.n_value_heads, max_width);
  check.that(d.n_value_heads % d.n_key_heads == 0, "ssm.time_step_rank",
             "a multiple of the " + std::to_string(d.n_key_heads) + " key heads",
             std::to_string(d.n_value_heads));
  check.in_range("ssm.state_size", d.head_dim,
                 std::min(max_state_dim, max_width / d.n_value_heads));
  check.that(d.conv_size >= 2 && d.conv_size <= max_conv_size, "ssm.conv_kernel",
             "2 to " + std::to_string(max_conv_size), std::to_string(d.conv_size));
}

void check_experts(const Config& c, const Check& check) {
  if (!c.has_experts()) return;
  const Experts& e = c.experts;
  check.in_range("expert_count", e.n, max_experts);
  check.in_range("expert_used_count", e.n_used, std::min(e.n, max_used_experts));
  check.in_range("expert_feed_forward_length", e.ffn_size, max_width / e.n_used);
  check.in_range("embedding_length", c.hidden_size, max_width / e.n_used);
  // Kernels take the outputs of a matrix in groups, and experts lie in one matrix.
  for (const auto& [key, size] :
       {std::pair{"expert_feed_forward_length", e.ffn_size}, {"embedding_length", c.hidden_size}}) {
    check.that(size % expert_multiple == 0, key,
               "a multiple of " + std::to_string(expert_multiple) + " in a model with experts",
               std::to_string(size));
  }
  check.that(e.shared_ffn_size <= max_width, "expert_shared_feed_forward_length",
             "up to " + std::to_string(max_width), std::to_string(e.shared_ffn_size));
  check.positive("expert_weights_scale", double{e.scale}, 1e6);
}

}  // namespace

bool Config::has(Mixer mixer) const {
  return std::ranges::any_of(layers, [&](const LayerConfig& l) { return l.mixer == mixer; });
}
bool Config::has_experts() const {
  return std::ranges::any_of(layers, &LayerConfig::experts);
}

std::string_view name(Gate::Source source) {
  return source_names[static_cast<size_t>(source)];
}
std::string_view name(Gate::Placement placement) {
  return placement_names[static_cast<size_t>(placement)];
}
std::string_view name(Gate::Granularity granularity) {
  return granularity_names[static_cast<size_t>(granularity)];
}

size_t Config::gate_inputs() const {
  switch (gate.source) {
    case Gate::Source::none:
      return 0;
    case Gate::Source::input:
      return hidden_size;
    case Gate::Source::value:
      return kv_size();
  }
  return 0;
}

size_t Config::n_gates() const {
  if (!gate) return 0;
  const size_t heads = gate.placement == Gate::Placement::output ? n_heads : n_kv_heads;
  return gate.granularity == Gate::Granularity::head ? heads : heads * head_dim;
}

void validate(const Config& c, std::string_view file) {
  const Check check(c, file);
  check.in_range("vocab_size", c.vocab_size, max_vocab);
  check.in_range("context_length", c.context_length, max_context);
  check.in_range("embedding_length", c.hidden_size, max_width);
  if (!std::ranges::all_of(c.layers, &LayerConfig::experts)) {
    check.in_range("feed_forward_length", c.ffn_size, max_width);
  }
  check.in_range("block_count", c.n_layers(), max_layers);
  check.in_range("attention.head_count", c.n_heads, max_width);
  check.in_range("attention.head_count_kv", c.n_kv_heads, c.n_heads);
  check.that(c.n_heads % c.n_kv_heads == 0, "attention.head_count_kv",
             "a divisor of the " + std::to_string(c.n_heads) + " heads",
             std::to_string(c.n_kv_heads));
  check.in_range("attention.key_length", c.head_dim, max_width / c.n_heads);
  check_rope(c, check);
  check_scales(c, check);
  check_delta(c, check);
  check_experts(c, check);
}

}  // namespace vga
