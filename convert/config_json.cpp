#include "config_json.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/text.h"
#include "json_fields.h"
#include "model/families.h"
#include "rope_json.h"
#include "strict_json.h"
#include "vga/error.h"

namespace vga {
namespace {

using nlohmann::json;
using Gate = AttentionGate;

// -- Families -------------------------------------------------------------------------------------

/// What transformers calls the numbers that every model has.
struct SizeKeys {
  std::string_view hidden = "hidden_size";
  std::string_view ffn = "intermediate_size";
  std::string_view layers = "num_hidden_layers";
  std::string_view heads = "num_attention_heads";
  std::string_view kv_heads = "num_key_value_heads";  // empty: as many, whatever a file says
  std::string_view context = "max_position_embeddings";
  std::string_view eps = "rms_norm_eps";
  std::string_view activation = "hidden_act";
};

/// One `model_type` of transformers.
struct ModelType {
  std::string_view name;
  std::string_view family;  // the GGUF architecture
  SizeKeys keys = {};
  /// JSON of what transformers takes for keys that real files leave out.
  std::string_view defaults = "{}";
  RopeDefaults rope = {};
  /// Reads what only this type has; the numbers that all have are known by then. May be null.
  void (*read)(const JsonFields& fields, Config& c) = nullptr;
  bool cuts_heads = false;  // only a part of each head may be rotated
};

/// Which layers are not of full_attention but of the `other` type, by `layer_types` or else by
/// `usual`.
std::vector<bool> other_layers(const JsonFields& fields, const Config& c, std::string_view other,
                               const std::vector<bool>& usual) {
  const json* types = fields.find("layer_types");
  if (types == nullptr) return usual;
  if (!types->is_array() || types->size() != c.n_layers()) {
    fields.fail("layer_types",
                "a name for each of the " + std::to_string(c.n_layers()) + " layers");
  }
  std::vector<bool> is_other;
  for (const json& type : *types) {
    if (type != other && type != "full_attention") {
      fields.fail("layer_types", "only " + std::string(other) + " and full_attention");
    }
    is_other.push_back(type == other);
  }
  return is_other;
}

std::vector<bool> sliding_layers(const JsonFields& fields, const Config& c,
                                 const std::vector<bool>& usual) {
  return other_layers(fields, c, "sliding_attention", usual);
}

/// All layers but the last of every `period`.
std::vector<bool> by_period(const Config& c, size_t period) {
  std::vector<bool> slides(c.n_layers());
  for (size_t i = 0; i < slides.size(); ++i) slides[i] = i % period + 1 < period;
  return slides;
}

void set_windows(const JsonFields& fields, Config& c, const std::vector<bool>& slides) {
  const auto window = fields.integer("sliding_window", max_context);
  for (size_t i = 0; i < c.n_layers(); ++i) {
    if (slides[i]) c.layers[i].window = fields.required("sliding_window", window);
  }
}

/// 0 and null are no window.
bool has_window(const JsonFields& fields) {
  const json* window = fields.find("sliding_window");
  return window != nullptr && *window != 0;
}

/// Qwen's files tell a window and that it is not used.
void refuse_used_window(const JsonFields& fields, Config& c) {
  if (!has_window(fields)) return;
  const bool used = fields.boolean("use_sliding_window").value_or(true);
  const std::vector<bool> slides = sliding_layers(fields, c, std::vector<bool>(c.n_layers(), used));
  if (used && std::ranges::find(slides, true) != slides.end()) {
    fields.fail("sliding_window",
                "null or use_sliding_window false: in models of this family "
                "every token attends to all before it");
  }
}

void refuse_window(const JsonFields& fields, Config&) {
  if (has_window(fields)) fields.fail("sliding_window", "null");
}

void read_window_of_all(const JsonFields& fields, Config& c) {
  if (!has_window(fields)) return;
  set_windows(fields, c, sliding_layers(fields, c, std::vector<bool>(c.n_layers(), true)));
}

/// The family leaves RoPE out of every fourth layer.
void read_smollm3(const JsonFields& fields, Config& c) {
  refuse_used_window(fields, c);
  for (size_t i = 3; i < c.n_layers(); i += 4) c.layers[i].rope.reset();
  const json* rotated = fields.find("no_rope_layers");  // 1: rotated
  if (rotated == nullptr) return;
  for (size_t i = 0; i < c.n_layers(); ++i) {
    if (rotated->is_array() && rotated->size() == c.n_layers() &&
        (*rotated)[i] == (c.layers[i].rope ? 1 : 0)) {
      continue;
    }
    fields.fail("no_rope_layers", "0 in every fourth place of the list and 1 elsewhere");
  }
}

void read_gemma(const JsonFields& fields, Config& c) {
  c.embedding_scale = std::sqrt(static_cast<float>(c.hidden_size));
  const auto usual = static_cast<double>(c.head_dim);
  const double scalar = fields.real("query_pre_attn_scalar").value_or(usual);
  // The runtime knows the largest models, which differ, by their layers.
  const bool is_large = c.n_layers() == (c.family == "gemma2" ? 46 : 62);
  const double wanted =
      is_large ? static_cast<double>(c.hidden_size) / static_cast<double>(c.n_heads) : usual;
  if (scalar != wanted) fields.fail("query_pre_attn_scalar", json(wanted).dump());
  c.score_scale = static_cast<float>(1 / std::sqrt(scalar));
  c.score_cap = static_cast<float>(fields.real("attn_logit_softcapping").value_or(0));
  c.logit_cap = static_cast<float>(fields.real("final_logit_softcapping").value_or(0));
  if (fields.boolean("use_bidirectional_attention").value_or(false)) {
    fields.fail("use_bidirectional_attention", "false");
  }
}

void read_gemma2(const JsonFields& fields, Config& c) {
  read_gemma(fields, c);
  const std::vector<bool> usual = by_period(c, 2);
  const std::vector<bool> slides = sliding_layers(fields, c, usual);
  if (slides != usual) fields.fail("layer_types", "every second layer full_attention");
  set_windows(fields, c, slides);
}

void read_gemma3(const JsonFields& fields, Config& c) {
  read_gemma(fields, c);
  if (c.score_cap != 0) fields.fail("attn_logit_softcapping", "null");
  const size_t period = fields.integer("sliding_window_pattern", max_layers).value_or(6);
  set_windows(fields, c, sliding_layers(fields, c, by_period(c, period)));
}

/// A key that must have one value if it is there.
void refuse_other(const JsonFields& fields, const char* key, bool wanted) {
  if (fields.boolean(key).value_or(wanted) != wanted) fields.fail(key, wanted ? "true" : "false");
}

/// The same of what models with groups of experts have: one group is none.
void refuse_groups(const JsonFields& fields, const char* key) {
  if (fields.integer(key, max_experts).value_or(1) != 1) fields.fail(key, "1");
}

/// Experts in all layers but the first `n_dense`.
void read_experts(const JsonFields& fields, Config& c, size_t n_dense) {
  Experts& e = c.experts;
  const char* n_key = fields.has("num_experts") ? "num_experts" : "num_local_experts";
  e.n = fields.required(n_key, fields.integer(n_key, max_experts));
  e.n_used = fields.required("num_experts_per_tok", fields.integer("num_experts_per_tok", e.n));
  e.ffn_size =
      fields.required("moe_intermediate_size", fields.integer("moe_intermediate_size", max_width));
  set_experts(c, n_dense);
}

/// Qwen's: experts in all layers.
void read_qwen_experts(const JsonFields& fields, Config& c) {
  read_experts(fields, c, 0);
  if (fields.integer("decoder_sparse_step", max_layers).value_or(1) != 1) {
    fields.fail("decoder_sparse_step", "1: experts in all layers");
  }
  const json* dense = fields.find("mlp_only_layers");
  if (dense != nullptr && !dense->empty()) {
    fields.fail("mlp_only_layers", "[]: experts in all layers");
  }
}

void read_qwen3_moe(const JsonFields& fields, Config& c) {
  refuse_used_window(fields, c);
  read_qwen_experts(fields, c);
  c.experts.normalised = fields.boolean("norm_topk_prob").value_or(false);
}

/// Delta nets, and gated attention in every fourth layer.
void read_qwen35(const JsonFields& fields, Config& c) {
  refuse_other(fields, "attention_bias", false);
  refuse_other(fields, "attn_output_gate", true);
  refuse_other(fields, "use_sliding_window", false);
  const auto integer = [&](const char* key) {
    return fields.required(key, fields.integer(key, max_width));
  };
  DeltaNet& d = c.delta;
  d.n_key_heads = integer("linear_num_key_heads");
  d.n_value_heads = integer("linear_num_value_heads");
  d.head_dim = integer("linear_key_head_dim");
  d.conv_size = integer("linear_conv_kernel_dim");
  if (integer("linear_value_head_dim") != d.head_dim) {
    fields.fail("linear_value_head_dim", "linear_key_head_dim " + std::to_string(d.head_dim));
  }
  const size_t period = fields.integer("full_attention_interval", max_layers).value_or(4);
  set_delta_nets(c, other_layers(fields, c, "linear_attention", by_period(c, period)));
}

/// The same with experts, and one network beside them.
void read_qwen35_moe(const JsonFields& fields, Config& c) {
  read_qwen35(fields, c);
  read_qwen_experts(fields, c);
  refuse_other(fields, "norm_topk_prob", true);
  constexpr const char* shared_key = "shared_expert_intermediate_size";
  c.experts.shared_ffn_size = fields.required(shared_key, fields.integer(shared_key, max_width));
  c.experts.shared_gate = true;
}

void read_afmoe(const JsonFields& fields, Config& c) {
  refuse_other(fields, "attention_bias", false);
  refuse_other(fields, "route_norm", true);
  for (const char* key : {"n_group", "topk_group", "num_expert_groups", "num_limited_groups"}) {
    refuse_groups(fields, key);
  }
  if (fields.string("score_func").value_or("sigmoid") != "sigmoid") {
    fields.fail("score_func", "\"sigmoid\"");
  }
  // Files have no word for models without it.
  if (!fields.boolean("mup_enabled").value_or(false)) fields.fail("mup_enabled", "true");
  c.embedding_scale = std::sqrt(static_cast<float>(c.hidden_size));
  const size_t period = fields.integer("global_attn_every_n_layers", max_layers).value_or(4);
  set_windows(fields, c, sliding_layers(fields, c, by_period(c, period)));
  for (LayerConfig& layer : c.layers) {
    if (layer.window == 0) layer.rope.reset();
  }
  const json* n_dense = fields.find("num_dense_layers");
  const bool none_dense = n_dense != nullptr && *n_dense == 0;
  read_experts(fields, c,
               none_dense ? 0 : fields.integer("num_dense_layers", c.n_layers()).value_or(1));
  if (!c.has_experts()) fields.fail("num_dense_layers", "less than all layers");
  if (!c.layers[0].experts && c.ffn_size == 0) {
    fields.required("intermediate_size", std::optional<size_t>());
  }
  const json* n_shared = fields.find("num_shared_experts");
  if (n_shared == nullptr || *n_shared != 0) {
    const size_t n = fields.integer("num_shared_experts", max_experts).value_or(2);
    c.experts.shared_ffn_size = n * c.experts.ffn_size;
  }
  c.experts.scale = static_cast<float>(fields.real("route_scale").value_or(1));
}

void read_olmo3(const JsonFields& fields, Config& c) {
  set_windows(fields, c, sliding_layers(fields, c, by_period(c, 4)));
}

void read_granite(const JsonFields& fields, Config& c) {
  const auto real = [&](std::string_view key, float& value) {
    if (const auto found = fields.real(key)) value = static_cast<float>(*found);
  };
  real("embedding_multiplier", c.embedding_scale);
  real("residual_multiplier", c.residual_scale);
  real("attention_multiplier", c.score_scale);
  c.logit_scale = static_cast<float>(1 / fields.real("logits_scaling").value_or(1));
}

void read_gpt2(const JsonFields& fields, Config&) {
  refuse_other(fields, "scale_attn_weights", true);
  refuse_other(fields, "scale_attn_by_inverse_layer_idx", false);
  refuse_other(fields, "add_cross_attention", false);
}

void read_gpt_neox(const JsonFields& fields, Config& c) {
  refuse_other(fields, "attention_bias", true);
  c.parallel_residual = fields.boolean("use_parallel_residual").value_or(true);
}

void read_opt(const JsonFields& fields, Config& c) {
  refuse_other(fields, "do_layer_norm_before", true);
  refuse_other(fields, "enable_bias", true);
  refuse_other(fields, "layer_norm_elementwise_affine", true);
  refuse_other(fields, "_remove_final_layer_norm", false);
  if (fields.integer("word_embed_proj_dim", max_width).value_or(c.hidden_size) != c.hidden_size) {
    fields.fail("word_embed_proj_dim", "hidden_size " + std::to_string(c.hidden_size));
  }
}

constexpr SizeKeys gemma_keys = {.activation = "hidden_activation"};
constexpr SizeKeys gpt2_keys = {.hidden = "n_embd",
                                .ffn = "n_inner",
                                .layers = "n_layer",
                                .heads = "n_head",
                                .kv_heads = "",
                                .context = "n_positions",
                                .eps = "layer_norm_epsilon",
                                .activation = "activation_function"};
constexpr SizeKeys gpt_neox_keys = {.kv_heads = "", .eps = "layer_norm_eps"};
constexpr SizeKeys opt_keys = {
    .ffn = "ffn_dim", .kv_heads = "", .eps = "layer_norm_eps", .activation = "activation_function"};

constexpr std::string_view gemma2_defaults = R"({"tie_word_embeddings": true, "head_dim": 256})";
constexpr std::string_view gemma3_defaults = R"({"tie_word_embeddings": true, "head_dim": 256,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256,
    "sliding_window": 4096})";
constexpr std::string_view smollm3_defaults = R"({"tie_word_embeddings": true})";
constexpr std::string_view gpt2_defaults =
    R"({"tie_word_embeddings": true, "layer_norm_epsilon": 1e-5})";
constexpr std::string_view neox_defaults = R"({"layer_norm_eps": 1e-5})";
constexpr std::string_view opt_defaults =
    R"({"tie_word_embeddings": true, "layer_norm_eps": 1e-5})";
constexpr std::string_view qwen35_defaults = R"({"head_dim": 256, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32})";
constexpr std::string_view afmoe_defaults = R"({"head_dim": 128, "sliding_window": 1024})";
constexpr RopeDefaults gemma3_rope = {.theta = 1e6, .sliding_theta = 1e4, .rotated_part = 1};
constexpr RopeDefaults gpt_neox_rope = {
    .theta = 10000, .sliding_theta = std::nullopt, .rotated_part = 0.25};

constexpr RopeDefaults qwen35_rope = {
    .theta = 10000, .sliding_theta = std::nullopt, .rotated_part = 0.25};

constexpr std::array model_types = {
    ModelType{.name = "vga", .family = "vga", .read = refuse_window},
    ModelType{.name = "llama", .family = "llama", .read = read_window_of_all},
    ModelType{.name = "mistral", .family = "llama", .read = read_window_of_all},
    ModelType{
        .name = "smollm3", .family = "smollm3", .defaults = smollm3_defaults, .read = read_smollm3},
    ModelType{.name = "qwen2", .family = "qwen2", .read = refuse_used_window},
    ModelType{.name = "qwen3", .family = "qwen3", .read = refuse_used_window},
    ModelType{.name = "gemma2",
              .family = "gemma2",
              .keys = gemma_keys,
              .defaults = gemma2_defaults,
              .read = read_gemma2},
    ModelType{.name = "gemma3_text",
              .family = "gemma3",
              .keys = gemma_keys,
              .defaults = gemma3_defaults,
              .rope = gemma3_rope,
              .read = read_gemma3},
    ModelType{.name = "phi3", .family = "phi3", .read = read_window_of_all, .cuts_heads = true},
    ModelType{.name = "olmo2", .family = "olmo2", .read = refuse_window},
    ModelType{.name = "olmo3", .family = "olmo2", .read = read_olmo3},
    ModelType{.name = "granite", .family = "granite", .read = read_granite},
    ModelType{.name = "gpt2",
              .family = "gpt2",
              .keys = gpt2_keys,
              .defaults = gpt2_defaults,
              .read = read_gpt2},
    ModelType{.name = "gpt_neox",
              .family = "gptneox",
              .keys = gpt_neox_keys,
              .defaults = neox_defaults,
              .rope = gpt_neox_rope,
              .read = read_gpt_neox,
              .cuts_heads = true},
    ModelType{.name = "opt",
              .family = "opt",
              .keys = opt_keys,
              .defaults = opt_defaults,
              .read = read_opt},
    ModelType{.name = "qwen3_5_text",
              .family = "qwen35",
              .defaults = qwen35_defaults,
              .rope = qwen35_rope,
              .read = read_qwen35,
              .cuts_heads = true},
    ModelType{.name = "qwen3_5_moe_text",
              .family = "qwen35moe",
              .defaults = qwen35_defaults,
              .rope = qwen35_rope,
              .read = read_qwen35_moe,
              .cuts_heads = true},
    ModelType{.name = "qwen3_next",
              .family = "qwen3next",
              .defaults = qwen35_defaults,
              .rope = qwen35_rope,
              .read = read_qwen35_moe,
              .cuts_heads = true},
    ModelType{.name = "qwen3_moe", .family = "qwen3moe", .read = read_qwen3_moe},
    ModelType{.name = "afmoe", .family = "afmoe", .defaults = afmoe_defaults, .read = read_afmoe},
};

const ModelType& find_type(const JsonFields& fields) {
  const std::string name = fields.required("model_type", fields.string("model_type"));
  const auto* found = std::ranges::find(model_types, name, &ModelType::name);
  if (found == model_types.end()) fields.fail("model_type", "one of " + names_of(model_types));
  return *found;
}

// -- What all of them have ------------------------------------------------------------------------

/// Whether an activation of transformers is the one that the family has.
bool is_activation(std::string_view name, Activation activation) {
  switch (activation) {
    case Activation::silu:
      return name == "silu" || name == "swish";
    case Activation::gelu_tanh:
      return name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast";
    case Activation::gelu:
      return name == "gelu";
    case Activation::relu:
      return name == "relu";
    case Activation::sigmoid:
      break;
  }
  return false;
}

/// What changes the model's function in ways that the runtime has no ops for.
void refuse_unsupported(const JsonFields& fields, const SizeKeys& keys, const Config& c) {
  const auto activation = fields.string(keys.activation);
  if (activation && !is_activation(*activation, c.activation)) {
    fields.fail(keys.activation, "the activation that models of this type have");
  }
  if (fields.has("quantization_config")) {
    fields.fail("quantization_config", "an unquantized checkpoint");
  }
}

void read_sizes(const JsonFields& fields, const SizeKeys& keys, Config& c) {
  const auto integer = [&](std::string_view key, size_t max) {
    return fields.required(key, fields.integer(key, max));
  };
  c.vocab_size = integer("vocab_size", max_vocab);
  c.context_length = integer(keys.context, max_context);
  c.hidden_size = integer(keys.hidden, max_width);
  // GPT-2's files may leave it to be four times as wide, those of experts have no use for it.
  const auto ffn_size = fields.integer(keys.ffn, max_width);
  const bool has_experts = fields.has("num_experts") || fields.has("num_local_experts");
  c.ffn_size = keys.ffn == gpt2_keys.ffn ? ffn_size.value_or(4 * c.hidden_size)
               : has_experts             ? ffn_size.value_or(0)
                                         : fields.required(keys.ffn, ffn_size);
  c.n_heads = integer(keys.heads, max_width);
  c.n_kv_heads = fields.integer(keys.kv_heads, c.n_heads).value_or(c.n_heads);
  if (c.n_heads % c.n_kv_heads != 0) {
    fields.fail(keys.kv_heads, "a divisor of the " + std::to_string(c.n_heads) + " heads");
  }
  const auto head_dim = fields.integer("head_dim", max_width);
  if (!head_dim && c.hidden_size % c.n_heads != 0) {
    fields.fail(keys.heads,
                "a divisor of " + std::string(keys.hidden) + ", as head_dim is not given");
  }
  c.head_dim = head_dim.value_or(c.hidden_size / c.n_heads);
  set_layers(c, integer(keys.layers, max_layers));
  c.norm_eps = static_cast<float>(fields.required(keys.eps, fields.real(keys.eps)));
  c.biases.qkv |= fields.boolean("attention_bias").value_or(false);
  c.biases.output |= fields.boolean("attention_bias").value_or(false);
  c.biases.ffn |= fields.boolean("mlp_bias").value_or(false);
}

void read_rope(const JsonFields& fields, const ModelType& type, ConfigJson& parsed) {
  Config& c = parsed.config;
  if (c.rope_tables.empty()) return;
  const bool slides = std::ranges::any_of(c.layers, [](const auto& l) { return l.window > 0; });
  RopeJson rope = parse_rope_json(fields, c, slides, type.rope);
  // Others would read the key and rotate all the same.
  if (rope.rope_dim != c.head_dim && !type.cuts_heads) {
    throw Error(fields.where("partial_rotary_factor"), "wanted 1");
  }
  c.rope_dim = rope.rope_dim;
  c.rope_tables = std::move(rope.tables);
  c.rope_factors = rope.kind;
  c.original_context = rope.original_context;
  parsed.rope_factors = std::move(rope.factors);
  parsed.rope_factors_long = std::move(rope.long_factors);
  for (LayerConfig& layer : c.layers) {
    if (layer.rope && layer.window > 0) layer.rope = c.rope_tables.size() - 1;
  }
}

void read_gate(const JsonFields& fields, Config& c) {
  const auto gate = fields.fields("attention_gate");
  if (gate && has_own_gate(c.family)) {
    fields.fail("attention_gate", "none: models of this type have a gate of their own");
  }
  if (gate) c.gate = parse_gate(*gate);
  if (c.family == "vga" && !gate) {
    throw Error(fields.where(),
                "key 'attention_gate' is missing; a vga model must say which gate it has, "
                "even if it is {\"source\": \"none\"}");
  }
}

/// The part of a file that describes the language model: checkpoints that see and hear as well have
/// it in `text_config`. What it leaves out is as transformers has it.
json text_config(const json& root, std::string_view where) {
  const JsonFields fields(root, std::string(where));
  const auto nested = fields.fields("text_config");
  json text = nested ? nested->object() : root;
  if (nested && fields.has("tie_word_embeddings")) {
    text["tie_word_embeddings"] = root["tie_word_embeddings"];
  }
  if (nested && fields.has("quantization_config")) {
    text["quantization_config"] = root["quantization_config"];
  }
  const json defaults = json::parse(find_type(JsonFields(text, std::string(where))).defaults);
  for (const auto& [key, value] : defaults.items()) {
    if (!text.contains(key)) text[key] = value;
  }
  return text;
}

}  // namespace

std::string_view model_type_of(std::string_view family) {
  const auto* found = std::ranges::find(model_types, family, &ModelType::family);
  return found == model_types.end() ? "llama" : found->name;
}

Gate parse_gate(const JsonFields& fields) {
  Gate gate;
  gate.source =
      fields.choice("source", {Gate::Source::none, Gate::Source::input, Gate::Source::value});
  for (const auto& [key, value] : fields.object().items()) {
    if (key != "source" && key != "placement" && key != "granularity" && key != "bias") {
      fields.fail(key, "only source, placement, granularity and bias");
    }
  }
  if (!gate) return gate;
  gate.placement = fields.choice("placement", {Gate::Placement::output, Gate::Placement::value});
  gate.granularity =
      fields.choice("granularity", {Gate::Granularity::head, Gate::Granularity::element});
  gate.bias = fields.required("bias", fields.boolean("bias"));
  return gate;
}

ConfigJson parse_config_json(std::span<const std::byte> bytes, std::string_view where) {
  const json text = text_config(parse_python_json(bytes, where), where);
  const JsonFields fields(text, std::string(where));
  const ModelType& type = find_type(fields);
  ConfigJson parsed;
  parsed.model_type = type.name;
  Config& c = parsed.config;
  c = *family_options(type.family);
  read_sizes(fields, type.keys, c);
  refuse_unsupported(fields, type.keys, c);
  if (type.read != nullptr) type.read(fields, c);
  read_rope(fields, type, parsed);
  c.tied_embeddings = fields.boolean("tie_word_embeddings").value_or(false);
  read_gate(fields, c);
  validate(c, where);
  return parsed;
}

}  // namespace vga
