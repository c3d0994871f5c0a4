#include "model/position_keys.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "model/families.h"

namespace vga {

// -- Windows --------------------------------------------------------------------------------------

void set_sliding(Config& c, size_t window, const std::vector<bool>& slides) {
  for (size_t i = 0; i < c.n_layers(); ++i) {
    if (!slides[i]) continue;
    c.layers[i].window = window;
    if (c.layers[i].rope) c.layers[i].rope = c.rope_tables.size() - 1;
  }
}

std::vector<bool> by_period(size_t n_layers, size_t period) {
  std::vector<bool> slides(n_layers, true);
  for (size_t i = 0; period > 0 && i < n_layers; ++i) slides[i] = i % period + 1 < period;
  return slides;
}

void read_windows(const Keys& keys, Config& c, size_t default_window, size_t default_period) {
  constexpr std::string_view pattern_key = "attention.sliding_window_pattern";
  const size_t window = keys.number("attention.sliding_window").value_or(default_window);
  const GgufValue* pattern = keys.find(pattern_key);
  if (window == 0) return;
  if (pattern == nullptr || pattern->type != GgufType::array) {
    const size_t period =
        pattern == nullptr ? default_period : keys.number(pattern_key).value_or(default_period);
    return set_sliding(c, window, by_period(c.n_layers(), period));
  }
  set_sliding(c, window, keys.booleans(pattern_key, c.n_layers()));
}

void read_window_of_all(const Keys& keys, Config& c) {
  read_windows(keys, c, 0, 0);
}

void write_windows(const Config& c, const KeyWriter& keys) {
  std::vector<bool> slides;
  size_t window = 0;
  for (const LayerConfig& layer : c.layers) {
    slides.push_back(layer.window > 0);
    window = std::max(window, layer.window);
  }
  if (window == 0) return;
  keys.number("attention.sliding_window", window);
  keys.booleans("attention.sliding_window_pattern", slides);
}

void read_sliding_table(const Keys& keys, Config& c, double default_theta) {
  const RopeTable sliding = {.theta = keys.real("rope.freq_base_swa").value_or(default_theta)};
  if (sliding != c.rope_tables[0]) c.rope_tables.push_back(sliding);
}

void write_sliding_table(const Config& c, const KeyWriter& keys) {
  keys.real("rope.freq_base_swa", c.rope_tables.back().theta);
}

// -- RoPE -----------------------------------------------------------------------------------------

namespace {

/// What positions are divided by. As in llama.cpp, a factor without a type is a linear one, 0 is
/// none, and `rope.scale_linear` is the factor's old name.
void read_scaling(const Keys& keys, Config& c) {
  RopeTable& table = c.rope_tables[0];
  const bool by_context = c.rope_factors == RopeFactors::by_context;
  const auto type = keys.string("rope.scaling.type").value_or(by_context ? "longrope" : "linear");
  const auto given = keys.real("rope.scaling.factor");
  const double factor = given ? *given : keys.real("rope.scale_linear").value_or(1);
  const double attn_factor = keys.real("rope.scaling.attn_factor").value_or(1);
  if (by_context || type == "yarn") {
    c.original_context = keys.required("rope.scaling.original_context_length",
                                       keys.number("rope.scaling.original_context_length"));
  }
  if (by_context) {
    if (type != "longrope") {
      keys.refuse("rope.scaling.type",
                  "wanted longrope, as 'rope_factors_short.weight' tells, found '" +
                      std::string(type) + "'");
    }
    table.magnitude = static_cast<float>(attn_factor);
  } else if (type == "yarn") {
    table.scaling = RopeTable::Scaling::yarn;
    table.factor = factor;
    table.beta_fast = keys.real("rope.scaling.yarn_beta_fast").value_or(table.beta_fast);
    table.beta_slow = keys.real("rope.scaling.yarn_beta_slow").value_or(table.beta_slow);
    table.magnitude = static_cast<float>(keys.real("rope.scaling.yarn_attn_factor")
                                             .value_or(attn_factor * (1 + 0.1 * std::log(factor))));
  } else if (type == "linear") {
    if (factor != 0 && factor != 1) {
      table.scaling = RopeTable::Scaling::linear;
      table.factor = factor;
    }
  } else if (type != "none") {
    keys.refuse("rope.scaling.type", "wanted none, linear or yarn, found '" + std::string(type) +
                                         "', which " + std::string(rope_scaling_obstacle(type)));
  }
  if (!by_context && type != "yarn" && attn_factor != 1) {
    keys.refuse("rope.scaling.attn_factor", "wanted 1, found " + std::to_string(attn_factor));
  }
}

}  // namespace

void read_rope(const Keys& keys, Config& c) {
  if (c.rope_tables.empty()) return;
  const Gguf& gguf = keys.gguf();
  c.rope_dim = keys.number("rope.dimension_count").value_or(c.head_dim);
  c.rope_tables[0].theta = keys.real("rope.freq_base").value_or(10000);
  if (gguf.find_tensor("rope_freqs.weight") != nullptr) c.rope_factors = RopeFactors::fixed;
  if (gguf.find_tensor("rope_factors_short.weight") != nullptr) {
    c.rope_factors = RopeFactors::by_context;
  }
  read_scaling(keys, c);
}

void write_rope(const Config& c, const KeyWriter& keys) {
  if (c.rope_tables.empty()) return;
  const RopeTable& table = c.rope_tables[0];
  keys.number("rope.dimension_count", c.rope_dim);
  keys.real("rope.freq_base", table.theta);
  if (c.original_context > 0) {
    keys.number("rope.scaling.original_context_length", c.original_context);
  }
  if (c.rope_factors == RopeFactors::by_context) {
    keys.real("rope.scaling.attn_factor", double{table.magnitude});
  }
  if (table.scaling == RopeTable::Scaling::none) return;
  const bool is_yarn = table.scaling == RopeTable::Scaling::yarn;
  keys.string("rope.scaling.type", is_yarn ? "yarn" : "linear");
  keys.real("rope.scaling.factor", table.factor);
  if (!is_yarn) return;
  keys.real("rope.scaling.yarn_beta_fast", table.beta_fast);
  keys.real("rope.scaling.yarn_beta_slow", table.beta_slow);
  keys.real("rope.scaling.yarn_attn_factor", double{table.magnitude});
}

}  // namespace vga
