#include "vga/config.h"

#include <array>
#include <cmath>
#include <optional>

#include "base/text.h"
#include "gguf/gguf.h"
#include "vga/error.h"

namespace vga {
namespace {

using Gate = AttentionGate;

constexpr std::array<std::string_view, 3> source_names = {"none", "input", "value"};
constexpr std::array<std::string_view, 2> placement_names = {"output", "value"};
constexpr std::array<std::string_view, 2> granularity_names = {"head", "element"};

template <class Enum, size_t n>
Enum parse_choice(const Gguf& gguf, const std::string& key,
                  const std::array<std::string_view, n>& names) {
  const auto found = gguf.required(key, gguf.string(key));
  std::string wanted;
  for (size_t i = 0; i < n; ++i) {
    if (found == names[i]) return static_cast<Enum>(i);
    wanted += (i > 0 ? " or " : "") + std::string(names[i]);
  }
  throw Error(gguf.file_name(),
              "key '" + key + "': wanted " + wanted + ", found '" + std::string(found) + "'");
}

std::string_view architecture_name(Config::Architecture architecture) {
  return architecture == Config::Architecture::vga ? "vga" : "llama";
}

Config::Architecture read_architecture(const Gguf& gguf) {
  constexpr std::string_view key = "general.architecture";
  const auto found = gguf.required(key, gguf.string(key));
  if (found == "vga") return Config::Architecture::vga;
  if (found == "llama") return Config::Architecture::llama;
  throw Error(gguf.file_name(), "key '" + std::string(key) +
                                    "': this runtime runs vga and llama, found '" +
                                    std::string(found) + "'");
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

/// What llama.cpp's llama models may have and this runtime computes without.
void refuse_unsupported(const Gguf& gguf, const std::string& prefix) {
  const auto refuse = [&](std::string_view suffix, const std::string& what) {
    throw Error(gguf.file_name(), "key '" + prefix + std::string(suffix) + "': " + what);
  };
  if (const auto experts = gguf.integer(prefix + "expert_count"); experts && *experts > 0) {
    refuse("expert_count",
           "mixtures of experts are not supported, found " + std::to_string(*experts) + " experts");
  }
  if (const auto window = gguf.integer(prefix + "attention.sliding_window");
      window && *window > 0) {
    refuse("attention.sliding_window",
           "sliding-window models are not supported, found a window of " + std::to_string(*window));
  }
  if (!gguf.boolean(prefix + "attention.causal").value_or(true)) {
    refuse("attention.causal", "wanted true, a model that predicts the next token, found false");
  }
  if (const auto scale = gguf.real(prefix + "rope.scaling.attn_factor"); scale && *scale != 1) {
    refuse("rope.scaling.attn_factor", "wanted 1, found " + std::to_string(*scale));
  }
}

/// What positions are divided by. As in llama.cpp, a factor without a type is a linear one, 0 is
/// none, and `rope.scale_linear` is the factor's old name.
double read_rope_scale(const Gguf& gguf, const std::string& prefix) {
  const std::string type_key = prefix + "rope.scaling.type";
  const auto type = gguf.string(type_key).value_or("linear");
  if (type == "none") return 1;
  if (type != "linear") {
    throw Error(gguf.file_name(), "key '" + type_key + "': wanted none or linear, found '" +
                                      std::string(type) + "', which " +
                                      std::string(rope_scaling_obstacle(type)));
  }
  const auto factor = gguf.real(prefix + "rope.scaling.factor");
  const double scale = factor ? *factor : gguf.real(prefix + "rope.scale_linear").value_or(1);
  return scale == 0 ? 1 : scale;
}

}  // namespace

std::string_view rope_scaling_obstacle(std::string_view type) {
  if (type == "yarn") return "scales attention scores as well";
  if (type == "dynamic") return "changes frequencies as the text grows, under keys already cached";
  if (type == "longrope" || type == "su") return "has other frequencies for long texts";
  return "is unknown";
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
  const std::string prefix = std::string(architecture_name(c.architecture)) + ".";
  const auto check = [&](bool good, std::string_view key, const std::string& wanted,
                         const std::string& found) {
    if (good) return;
    throw Error(file,
                "key '" + prefix + std::string(key) + "': wanted " + wanted + ", found " + found);
  };
  const auto in_range = [&](std::string_view key, size_t value, size_t max) {
    check(value >= 1 && value <= max, key, "1 to " + std::to_string(max), std::to_string(value));
  };
  const auto positive = [&](std::string_view key, double value, double max) {
    check(std::isfinite(value) && value > 0 && value <= max, key,
          "a positive number up to " + std::to_string(max), std::to_string(value));
  };
  in_range("vocab_size", c.vocab_size, max_vocab);
  in_range("context_length", c.context_length, max_context);
  in_range("embedding_length", c.hidden_size, max_width);
  in_range("feed_forward_length", c.ffn_size, max_width);
  in_range("block_count", c.n_layers, max_layers);
  in_range("attention.head_count", c.n_heads, max_width);
  in_range("attention.head_count_kv", c.n_kv_heads, c.n_heads);
  check(c.n_heads % c.n_kv_heads == 0, "attention.head_count_kv",
        "a divisor of the " + std::to_string(c.n_heads) + " heads", std::to_string(c.n_kv_heads));
  in_range("attention.key_length", c.head_dim, max_width / c.n_heads);
  check(c.rope_dim >= 2 && c.rope_dim % 2 == 0 && c.rope_dim <= c.head_dim, "rope.dimension_count",
        "an even number from 2 to the head's " + std::to_string(c.head_dim),
        std::to_string(c.rope_dim));
  positive("rope.freq_base", c.rope_theta, 1e12);
  positive("rope.scaling.factor", c.rope_scale, 1e6);
  positive("attention.layer_norm_rms_epsilon", c.rms_eps, 1);
}

Config read_config(const Gguf& gguf) {
  refuse_split(gguf);
  Config c;
  c.architecture = read_architecture(gguf);
  const std::string prefix = std::string(architecture_name(c.architecture)) + ".";
  const auto number = [&](std::string_view suffix) {
    return gguf.integer(prefix + std::string(suffix));
  };
  const auto required = [&](std::string_view suffix) {
    return gguf.required(prefix + std::string(suffix), number(suffix));
  };
  const auto real = [&](std::string_view suffix) {
    return gguf.real(prefix + std::string(suffix));
  };

  refuse_unsupported(gguf, prefix);
  c.model_name = gguf.string("general.name").value_or("");
  c.context_length = required("context_length");
  c.hidden_size = required("embedding_length");
  c.ffn_size = required("feed_forward_length");
  c.n_layers = required("block_count");
  c.n_heads = required("attention.head_count");
  c.n_kv_heads = number("attention.head_count_kv").value_or(c.n_heads);
  // Only a quotient of numbers in range is worth computing; validate() refuses the others.
  const size_t default_head_dim = c.n_heads > 0 ? c.hidden_size / c.n_heads : 0;
  c.head_dim = number("attention.key_length").value_or(default_head_dim);
  c.rope_dim = number("rope.dimension_count").value_or(c.head_dim);
  c.rope_theta = real("rope.freq_base").value_or(10000);
  const std::string eps_key = prefix + "attention.layer_norm_rms_epsilon";
  c.rms_eps = static_cast<float>(gguf.required(eps_key, gguf.real(eps_key)));

  if (const auto value_dim = number("attention.value_length");
      value_dim && *value_dim != c.head_dim) {
    throw Error(gguf.file_name(),
                "key '" + prefix + "attention.value_length': wanted the key length " +
                    std::to_string(c.head_dim) + ", found " + std::to_string(*value_dim));
  }
  c.rope_scale = read_rope_scale(gguf, prefix);
  c.rope_factors = gguf.find_tensor("rope_freqs.weight") != nullptr;

  if (const auto vocab = number("vocab_size")) {
    c.vocab_size = *vocab;
  } else {
    const GgufValue* tokens = gguf.find("tokenizer.ggml.tokens");
    if (tokens == nullptr) gguf.required(prefix + "vocab_size", std::optional<uint64_t>());
    c.vocab_size = tokens->count;
  }
  c.tied_embeddings = gguf.find_tensor("output.weight") == nullptr;

  if (c.architecture == Config::Architecture::vga) {
    const std::string gate = prefix + "attention.gate.";
    c.gate.source = parse_choice<Gate::Source>(gguf, gate + "source", source_names);
    c.gate.placement = parse_choice<Gate::Placement>(gguf, gate + "placement", placement_names);
    c.gate.granularity =
        parse_choice<Gate::Granularity>(gguf, gate + "granularity", granularity_names);
    c.gate.bias = c.gate && gguf.find_tensor("blk.0.attn_gate.bias") != nullptr;
  }
  validate(c, gguf.file_name());
  return c;
}

void write_config(const Config& c, GgufWriter& writer) {
  const std::string architecture(architecture_name(c.architecture));
  const auto key = [&](std::string_view suffix) {
    return architecture + "." + std::string(suffix);
  };
  const auto integer = [&](std::string_view suffix, size_t value) {
    writer.add(key(suffix), static_cast<uint32_t>(value));
  };
  writer.add("general.architecture", architecture);
  if (!c.model_name.empty()) writer.add("general.name", c.model_name);
  integer("vocab_size", c.vocab_size);
  integer("context_length", c.context_length);
  integer("embedding_length", c.hidden_size);
  integer("feed_forward_length", c.ffn_size);
  integer("block_count", c.n_layers);
  integer("attention.head_count", c.n_heads);
  integer("attention.head_count_kv", c.n_kv_heads);
  integer("attention.key_length", c.head_dim);
  integer("attention.value_length", c.head_dim);
  integer("rope.dimension_count", c.rope_dim);
  writer.add(key("rope.freq_base"), static_cast<float>(c.rope_theta));
  if (c.rope_scale != 1) {
    writer.add(key("rope.scaling.type"), "linear");
    writer.add(key("rope.scaling.factor"), static_cast<float>(c.rope_scale));
  }
  writer.add(key("attention.layer_norm_rms_epsilon"), c.rms_eps);
  if (c.architecture == Config::Architecture::vga) {
    writer.add(key("attention.gate.source"), name(c.gate.source));
    writer.add(key("attention.gate.placement"), name(c.gate.placement));
    writer.add(key("attention.gate.granularity"), name(c.gate.granularity));
  }
}

}  // namespace vga
