#include "model/families.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "model/adapter.h"
#include "model/family_keys.h"
#include "model/position_keys.h"

namespace vga {
namespace {

using Gate = AttentionGate;

// -- Families -------------------------------------------------------------------------------------

/// What a family has for itself.
struct Family {
  std::string_view name;
  /// Sets the options that all its models have.
  void (*options)(Config& c);
  /// Reads and writes the keys that only this family has; may be null. The numbers that all
  /// families have are known by then.
  void (*read)(const Keys& keys, Config& c) = nullptr;
  void (*write)(const Config& c, const KeyWriter& keys) = nullptr;
};

void layer_norms_with_biases(Config& c) {
  c.norm = NormKind::layer;
  c.biases = {.qkv = true, .output = true, .ffn = true};
  c.ffn_gated = false;
}

void gemma(Config& c) {
  c.norm_after = true;
  c.activation = Activation::gelu_tanh;
}

/// Gemma's embeddings are as long as their width asks for, and its largest models (of `large`
/// layers) scale scores by the width of all heads.
void read_gemma_scales(Config& c, size_t large) {
  c.embedding_scale = std::sqrt(static_cast<float>(c.hidden_size));
  if (c.n_layers() == large && c.n_heads > 0) {
    c.score_scale =
        1 / std::sqrt(static_cast<float>(c.hidden_size) / static_cast<float>(c.n_heads));
  }
}

void read_gemma2(const Keys& keys, Config& c) {
  read_gemma_scales(c, 46);
  c.score_cap = static_cast<float>(keys.real("attn_logit_softcapping").value_or(50));
  c.logit_cap = static_cast<float>(keys.real("final_logit_softcapping").value_or(30));
  const size_t window = keys.number("attention.sliding_window").value_or(4096);
  set_sliding(c, window, by_period(c.n_layers(), 2));
}

void write_gemma2(const Config& c, const KeyWriter& keys) {
  keys.real("attn_logit_softcapping", double{c.score_cap});
  keys.real("final_logit_softcapping", double{c.logit_cap});
  keys.number("attention.sliding_window", c.layers[0].window);
}

void read_gemma3(const Keys& keys, Config& c) {
  read_gemma_scales(c, 62);
  c.logit_cap = static_cast<float>(keys.real("final_logit_softcapping").value_or(0));
  read_sliding_table(keys, c, 10000);
  read_windows(keys, c, 0, 6);
}

void write_gemma3(const Config& c, const KeyWriter& keys) {
  if (c.logit_cap > 0) keys.real("final_logit_softcapping", double{c.logit_cap});
  write_sliding_table(c, keys);
  write_windows(c, keys);
}

void read_olmo2(const Keys& keys, Config& c) {
  read_sliding_table(keys, c, c.rope_tables[0].theta);
  read_windows(keys, c, 0, 4);
}

void write_olmo2(const Config& c, const KeyWriter& keys) {
  write_sliding_table(c, keys);
  write_windows(c, keys);
}

void read_granite(const Keys& keys, Config& c) {
  c.logit_scale = 1 / static_cast<float>(keys.required("logit_scale", keys.real("logit_scale")));
  c.residual_scale = static_cast<float>(keys.real_or("residual_scale", 1));
  c.embedding_scale = static_cast<float>(keys.real_or("embedding_scale", 1));
  c.score_scale = static_cast<float>(keys.real_or("attention.scale", double{c.score_scale}));
  if (!keys.boolean("rope.scaling.finetuned").value_or(true)) {
    for (LayerConfig& layer : c.layers) layer.rope.reset();
  }
}

void write_granite(const Config& c, const KeyWriter& keys) {
  keys.real("logit_scale", 1 / double{c.logit_scale});
  keys.real("residual_scale", double{c.residual_scale});
  keys.real("embedding_scale", double{c.embedding_scale});
  keys.real("attention.scale", double{c.score_scale});
  keys.boolean("rope.scaling.finetuned", c.layers[0].rope.has_value());
}

/// Every fourth layer does not rotate, which no key tells.
void read_smollm3(const Keys&, Config& c) {
  for (size_t i = 3; i < c.n_layers(); i += 4) c.layers[i].rope.reset();
}

// -- Delta nets and experts -----------------------------------------------------------------------

/// The input decides, head by head and element by element, how much of attention's output passes.
void element_gates(Config& c) {
  c.gate = {.source = Gate::Source::input,
            .placement = Gate::Placement::output,
            .granularity = Gate::Granularity::element};
}

/// Which layers are delta nets: a bool for each, or all but the last of each period.
void read_mixers(const Keys& keys, Config& c) {
  constexpr std::string_view key = "attention.recurrent_layers";
  const size_t period = keys.number("full_attention_interval").value_or(4);
  const GgufValue* pattern = keys.find(key);
  const std::vector<bool> is_delta =
      pattern == nullptr ? by_period(c.n_layers(), period) : keys.booleans(key, c.n_layers());
  set_delta_nets(c, is_delta);
}

void read_delta(const Keys& keys, Config& c) {
  const auto required = [&](std::string_view suffix) {
    return keys.required(suffix, keys.number(suffix));
  };
  read_mixers(keys, c);
  DeltaNet& d = c.delta;
  d.conv_size = required("ssm.conv_kernel");
  d.head_dim = required("ssm.state_size");
  d.n_key_heads = required("ssm.group_count");
  d.n_value_heads = required("ssm.time_step_rank");
  const size_t inner = required("ssm.inner_size");
  if (d.head_dim == 0 || inner % d.head_dim != 0 || inner / d.head_dim != d.n_value_heads) {
    keys.refuse("ssm.inner_size", "wanted " + std::to_string(d.n_value_heads) + " value heads of " +
                                      std::to_string(d.head_dim) + ", found " +
                                      std::to_string(inner));
  }
  // Sections of dimensions turn by positions in an image; those of text are all the same.
  keys.find("rope.dimension_sections");
}

void write_delta(const Config& c, const KeyWriter& keys) {
  const DeltaNet& d = c.delta;
  std::vector<bool> is_delta;
  for (const LayerConfig& layer : c.layers) is_delta.push_back(layer.mixer == Mixer::delta);
  keys.booleans("attention.recurrent_layers", is_delta);
  keys.number("ssm.conv_kernel", d.conv_size);
  keys.number("ssm.state_size", d.head_dim);
  keys.number("ssm.group_count", d.n_key_heads);
  keys.number("ssm.time_step_rank", d.n_value_heads);
  keys.number("ssm.inner_size", d.value_size());
  // Llama.cpp wants them; all pairs are of the section that text has.
  const std::array<int32_t, 4> sections = {static_cast<int32_t>(c.rope_dim / 2), 0, 0, 0};
  if (!d.grouped) keys.integers("rope.dimension_sections", sections);
}

/// Experts in all layers but the first `n_dense`.
void read_experts(const Keys& keys, Config& c, size_t n_dense) {
  const auto required = [&](std::string_view suffix) {
    return keys.required(suffix, keys.number(suffix));
  };
  Experts& e = c.experts;
  e.n = required("expert_count");
  e.n_used = required("expert_used_count");
  e.ffn_size = required("expert_feed_forward_length");
  e.scale = static_cast<float>(keys.real_or("expert_weights_scale", 1));
  e.normalised = keys.boolean("expert_weights_norm").value_or(e.normalised);
  constexpr std::string_view router_key = "expert_gating_func";
  if (const auto router = keys.number(router_key); router && *router != 0) {
    if (*router > 2) {
      keys.refuse(router_key,
                  "wanted 1 (softmax) or 2 (sigmoid), found " + std::to_string(*router));
    }
    e.router = *router == 1 ? Experts::Router::softmax : Experts::Router::sigmoid;
  }
  set_experts(c, n_dense);
}

void write_experts(const Config& c, const KeyWriter& keys) {
  const Experts& e = c.experts;
  keys.number("expert_count", e.n);
  keys.number("expert_used_count", e.n_used);
  keys.number("expert_feed_forward_length", e.ffn_size);
  keys.real("expert_weights_scale", double{e.scale});
  keys.boolean("expert_weights_norm", e.normalised);
  keys.number("expert_gating_func", e.router == Experts::Router::softmax ? 1 : 2);
}

void qwen35(Config& c) {
  c.qk_norm = QkNorm::head;
  c.fused_q_gate = true;
  c.ffn_norm_is_post_attention = true;
  element_gates(c);
}

/// Experts in all layers, and one network beside them that its own gate weighs.
void read_qwen_experts(const Keys& keys, Config& c) {
  read_experts(keys, c, 0);
  constexpr std::string_view shared_key = "expert_shared_feed_forward_length";
  c.experts.shared_ffn_size = keys.required(shared_key, keys.number(shared_key));
  c.experts.shared_gate = true;
}

void write_qwen_experts(const Config& c, const KeyWriter& keys) {
  write_experts(c, keys);
  keys.number("expert_shared_feed_forward_length", c.experts.shared_ffn_size);
}

void read_qwen35_experts(const Keys& keys, Config& c) {
  read_delta(keys, c);
  read_qwen_experts(keys, c);
}

void write_qwen35_experts(const Config& c, const KeyWriter& keys) {
  write_delta(c, keys);
  write_qwen_experts(c, keys);
}

/// Every fourth layer sees everything and does not rotate.
void read_afmoe(const Keys& keys, Config& c) {
  c.embedding_scale = std::sqrt(static_cast<float>(c.hidden_size));
  read_windows(keys, c, 2048, 4);
  for (LayerConfig& layer : c.layers) {
    if (layer.window == 0) layer.rope.reset();
  }
  const size_t n_dense = keys.number("leading_dense_block_count").value_or(0);
  read_experts(keys, c, n_dense);
  const size_t n_shared = keys.number("expert_shared_count").value_or(0);
  if (n_shared > max_experts || c.experts.ffn_size > max_width) {
    keys.refuse("expert_shared_count", "wanted up to " + std::to_string(max_experts) +
                                           " networks, found " + std::to_string(n_shared));
  }
  c.experts.shared_ffn_size = n_shared * c.experts.ffn_size;
}

void write_afmoe(const Config& c, const KeyWriter& keys) {
  write_windows(c, keys);
  write_experts(c, keys);
  const auto n_dense = std::ranges::find(c.layers, true, &LayerConfig::experts) - c.layers.begin();
  keys.number("leading_dense_block_count", static_cast<size_t>(n_dense));
  keys.number("expert_shared_count", c.experts.shared_ffn_size / c.experts.ffn_size);
}

constexpr std::array families = {
    Family{"vga", [](Config&) {}},
    // Mistral's window is in files of this architecture, too.
    Family{"llama", [](Config& c) { c.half_split = false; }, read_window_of_all, write_windows},
    Family{"smollm3", [](Config& c) { c.half_split = false; }, read_smollm3},
    Family{"qwen2", [](Config& c) { c.biases.qkv = true; }},
    Family{"qwen3", [](Config& c) { c.qk_norm = QkNorm::head; }},
    Family{"gemma2", gemma, read_gemma2, write_gemma2},
    Family{"gemma3",
           [](Config& c) {
             gemma(c);
             c.qk_norm = QkNorm::head;
           },
           read_gemma3, write_gemma3},
    // Transformers heeds the window that files tell; llama.cpp lets every token see all.
    Family{"phi3",
           [](Config& c) {
             c.fused_qkv = true;
             c.fused_gate_up = true;
           },
           read_window_of_all, write_windows},
    Family{"olmo2",
           [](Config& c) {
             c.norm_before = false;
             c.norm_after = true;
             c.qk_norm = QkNorm::all;
           },
           read_olmo2, write_olmo2},
    Family{"granite", [](Config& c) { c.half_split = false; }, read_granite, write_granite},
    Family{"gpt2",
           [](Config& c) {
             layer_norms_with_biases(c);
             c.fused_qkv = true;
             c.rope_tables.clear();
             c.learned_positions = true;
             c.activation = Activation::gelu_tanh;
           }},
    Family{"gptneox",
           [](Config& c) {
             layer_norms_with_biases(c);
             c.fused_qkv = true;
             c.activation = Activation::gelu;
             c.parallel_residual = true;
           },
           [](const Keys& keys, Config& c) {
             c.parallel_residual =
                 keys.required("use_parallel_residual", keys.boolean("use_parallel_residual"));
           },
           [](const Config& c, const KeyWriter& keys) {
             keys.boolean("use_parallel_residual", c.parallel_residual);
           }},
    Family{"opt",
           [](Config& c) {
             layer_norms_with_biases(c);
             c.rope_tables.clear();
             c.learned_positions = true;
             c.activation = Activation::relu;
           }},
    Family{"qwen35", qwen35, read_delta, write_delta},
    Family{"qwen35moe", qwen35, read_qwen35_experts, write_qwen35_experts},
    Family{"qwen3next",
           [](Config& c) {
             qwen35(c);
             c.delta.grouped = true;
             c.delta.fused_rates = true;
           },
           read_qwen35_experts, write_qwen35_experts},
    Family{"qwen3moe", [](Config& c) { c.qk_norm = QkNorm::head; },
           [](const Keys& keys, Config& c) { read_experts(keys, c, 0); }, write_experts},
    Family{"afmoe",
           [](Config& c) {
             c.norm_after = true;
             c.qk_norm = QkNorm::head;
             c.experts.router = Experts::Router::sigmoid;
             c.experts.choice_bias = true;
             element_gates(c);
           },
           read_afmoe, write_afmoe},
};

const Family* find_family(std::string_view name) {
  const auto* found = std::ranges::find(families, name, &Family::name);
  return found == families.end() ? nullptr : found;
}

// -- What all of them have ------------------------------------------------------------------------

template <class Enum, size_t n>
Enum parse_choice(const Keys& keys, std::string_view suffix, const std::array<Enum, n>& choices) {
  const auto found = keys.required(suffix, keys.string(suffix));
  std::string wanted;
  for (const Enum choice : choices) {
    if (found == name(choice)) return choice;
    wanted += (wanted.empty() ? "" : " or ") + std::string(name(choice));
  }
  keys.refuse(suffix, "wanted " + wanted + ", found '" + std::string(found) + "'");
}

Gate read_gate(const Keys& keys) {
  Gate gate;
  gate.source =
      parse_choice(keys, "attention.gate.source",
                   std::array{Gate::Source::none, Gate::Source::input, Gate::Source::value});
  gate.placement = parse_choice(keys, "attention.gate.placement",
                                std::array{Gate::Placement::output, Gate::Placement::value});
  gate.granularity = parse_choice(keys, "attention.gate.granularity",
                                  std::array{Gate::Granularity::head, Gate::Granularity::element});
  gate.bias = gate && keys.gguf().find_tensor("blk.0.attn_gate.bias") != nullptr;
  return gate;
}

bool has_gate(const Keys& keys) {
  return keys.find("attention.gate.source") != nullptr;
}

/// Files of many shards hold only a part of the model each; running one alone would be wrong.
void refuse_split(const Gguf& gguf) {
  const auto count = gguf.integer("split.count");
  if (count && *count > 1) {
    throw Error(gguf.file_name(), "key 'split.count': this is one of " + std::to_string(*count) +
                                      " parts; merge them into one file first (llama.cpp: "
                                      "llama-gguf-split --merge)");
  }
}

/// What models of some families have and this runtime computes for those alone, or for none: keys
/// that nobody asked for must say what a model without them does.
void refuse_unsupported(const Keys& keys) {
  struct Known {
    std::string_view suffix;
    double neutral;
    std::string_view what;
  };
  constexpr std::string_view not_here = "is not known in models of this family";
  for (const auto& [suffix, neutral, what] : {
           Known{"expert_count", 0, "experts are not known in models of this family"},
           Known{"attention.sliding_window", 0, "a window is not known in models of this family"},
           Known{"attn_logit_softcapping", 0, not_here},
           Known{"final_logit_softcapping", 0, not_here},
           Known{"logit_scale", 1, not_here},
           Known{"residual_scale", 1, not_here},
           Known{"embedding_scale", 1, not_here},
           Known{"attention.scale", 0, not_here},
           Known{"attention.clamp_kqv", 0, not_here},
           Known{"attention.max_alibi_bias", 0, not_here},
           Known{"attention.kv_lora_rank", 0, "compressed keys and values are not supported"},
       }) {
    if (keys.was_asked(suffix) || keys.find(suffix) == nullptr) continue;
    const double found = keys.real(suffix).value_or(0);
    if (found == neutral || found == 0) continue;
    keys.refuse(suffix, std::string(what) + ", found " + describe(*keys.find(suffix)));
  }
  if (!keys.boolean("attention.causal").value_or(true)) {
    keys.refuse("attention.causal",
                "wanted true, a model that predicts the next token, found false");
  }
}

const char* eps_key(const Config& c) {
  return c.norm == NormKind::rms ? "attention.layer_norm_rms_epsilon"
                                 : "attention.layer_norm_epsilon";
}

void read_sizes(const Keys& keys, Config& c) {
  const Gguf& gguf = keys.gguf();
  const auto required = [&](std::string_view suffix) {
    return keys.required(suffix, keys.number(suffix));
  };
  c.model_name = gguf.string("general.name").value_or("");
  c.context_length = required("context_length");
  c.hidden_size = required("embedding_length");
  // Where all layers have experts, files may leave it out.
  const bool has_experts = gguf.integer(keys.key("expert_count")).value_or(0) > 0;
  c.ffn_size = has_experts ? keys.number("feed_forward_length").value_or(0)
                           : required("feed_forward_length");
  size_t n_layers = required("block_count");
  if (n_layers > max_layers) {
    keys.refuse("block_count", "wanted 1 to " + std::to_string(max_layers) + ", found " +
                                   std::to_string(n_layers));
  }
  constexpr std::string_view draft_key = "nextn_predict_layers";
  c.n_draft_layers = keys.number(draft_key).value_or(0);
  if (c.n_draft_layers > 0 && c.n_draft_layers >= n_layers) {
    keys.refuse(draft_key, "wanted less than the " + std::to_string(n_layers) + " blocks, found " +
                               std::to_string(c.n_draft_layers));
  }
  n_layers -= c.n_draft_layers;
  c.n_heads = required("attention.head_count");
  c.n_kv_heads = keys.number("attention.head_count_kv").value_or(c.n_heads);
  // Only a quotient of numbers in range is worth computing; validate() refuses the others.
  const size_t default_head_dim = c.n_heads > 0 ? c.hidden_size / c.n_heads : 0;
  c.head_dim = keys.number("attention.key_length").value_or(default_head_dim);
  if (const auto value_dim = keys.number("attention.value_length");
      value_dim && *value_dim != c.head_dim) {
    keys.refuse("attention.value_length", "wanted the key length " + std::to_string(c.head_dim) +
                                              ", found " + std::to_string(*value_dim));
  }
  c.norm_eps = static_cast<float>(keys.required(eps_key(c), keys.real(eps_key(c))));
  set_layers(c, n_layers);
  if (const auto vocab = keys.number("vocab_size")) {
    c.vocab_size = *vocab;
  } else {
    const GgufValue* tokens = gguf.find("tokenizer.ggml.tokens");
    if (tokens == nullptr) keys.required("vocab_size", std::optional<uint64_t>());
    c.vocab_size = tokens->count;
  }
}

/// Options that the tensors tell which are there.
void read_tensors(const Gguf& gguf, Config& c) {
  const auto has = [&](std::string_view name) { return gguf.find_tensor(name) != nullptr; };
  c.tied_embeddings = !has("output.weight");
  c.biases.qkv = c.biases.qkv || has(c.fused_qkv ? "blk.0.attn_qkv.bias" : "blk.0.attn_q.bias");
  c.biases.output = c.biases.output || has("blk.0.attn_output.bias");
  c.biases.ffn = c.biases.ffn || has("blk.0.ffn_down.bias");
}

}  // namespace

std::string family_names() {
  std::string names;
  for (const Family& family : families) {
    names += (names.empty() ? "" : ", ") + std::string(family.name);
  }
  return names;
}

std::optional<Config> family_options(std::string_view name) {
  const Family* family = find_family(name);
  if (family == nullptr) return std::nullopt;
  Config c;
  c.family = name;
  c.rope_tables = {RopeTable{}};
  family->options(c);
  return c;
}

void set_layers(Config& c, size_t n_layers) {
  const bool rotates = !c.rope_tables.empty();
  c.layers.assign(std::min(n_layers, max_layers + 1),
                  {.rope = rotates ? std::optional<size_t>(0) : std::nullopt});
  c.score_scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
}

void set_windows(Config& c, size_t window, size_t period) {
  set_sliding(c, window, by_period(c.n_layers(), period));
}

std::string_view rope_scaling_obstacle(std::string_view type) {
  if (type == "yarn") return "scales attention scores as well";
  if (type == "dynamic") return "changes frequencies as the text grows, under keys already cached";
  if (type == "longrope" || type == "su") return "has other frequencies for long texts";
  return "is unknown";
}

Config read_config(const Gguf& gguf) {
  refuse_split(gguf);
  if (Adapter::is_adapter(gguf)) {
    throw Error(gguf.file_name(),
                "is an adapter, not a model; --adapter applies it to the model that -m names");
  }
  constexpr std::string_view family_key = "general.architecture";
  const std::string family(gguf.required(family_key, gguf.string(family_key)));
  std::optional<Config> options = family_options(family);
  if (!options) {
    throw Error(gguf.file_name(), "key '" + std::string(family_key) + "': this runtime runs " +
                                      family_names() + ", found '" + family + "'");
  }
  Config& c = *options;
  const Keys keys(gguf, family);
  read_sizes(keys, c);
  read_rope(keys, c);
  read_tensors(gguf, c);
  const Family* own = find_family(family);
  if (own->read != nullptr) own->read(keys, c);
  if (c.family == "vga" || has_gate(keys)) {
    if (has_own_gate(c.family))
      keys.refuse("attention.gate.source", "models of this family have a gate anyway");
    c.gate = read_gate(keys);
  }
  refuse_unsupported(keys);
  validate(c, gguf.file_name());
  return c;
}

void write_config(const Config& c, GgufWriter& writer) {
  const KeyWriter keys(writer, c.family);
  writer.add("general.architecture", std::string_view(c.family));
  if (!c.model_name.empty()) writer.add("general.name", std::string_view(c.model_name));
  keys.number("vocab_size", c.vocab_size);
  keys.number("context_length", c.context_length);
  keys.number("embedding_length", c.hidden_size);
  keys.number("feed_forward_length", c.ffn_size);
  keys.number("block_count", c.n_layers());
  keys.number("attention.head_count", c.n_heads);
  keys.number("attention.head_count_kv", c.n_kv_heads);
  keys.number("attention.key_length", c.head_dim);
  keys.number("attention.value_length", c.head_dim);
  write_rope(c, keys);
  keys.real(eps_key(c), double{c.norm_eps});
  const Family* family = find_family(c.family);
  if (family != nullptr && family->write != nullptr) family->write(c, keys);
  write_gate(c, writer);
}

void set_delta_nets(Config& c, const std::vector<bool>& is_delta) {
  for (size_t i = 0; i < c.n_layers(); ++i) {
    if (!is_delta[i]) continue;
    c.layers[i].mixer = Mixer::delta;
    c.layers[i].rope.reset();
  }
}

void set_experts(Config& c, size_t n_dense) {
  for (size_t i = n_dense; i < c.n_layers(); ++i) c.layers[i].experts = true;
}

bool has_own_gate(std::string_view family) {
  const auto options = family_options(family);
  return options && options->gate;
}

Gate read_gate(const Gguf& gguf, const std::string& family) {
  const Keys keys(gguf, family);
  return has_gate(keys) ? read_gate(keys) : Gate{};
}

void write_gate(const Config& c, GgufWriter& writer) {
  if (c.family == "vga" || (c.gate && !has_own_gate(c.family))) {
    write_gate(c.gate, c.family, writer);
  }
}

void write_gate(const Gate& gate, const std::string& family, GgufWriter& writer) {
  const KeyWriter keys(writer, family);
  keys.string("attention.gate.source", name(gate.source));
  keys.string("attention.gate.placement", name(gate.placement));
  keys.string("attention.gate.granularity", name(gate.granularity));
}

}  // namespace vga
