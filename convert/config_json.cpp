#include "config_json.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numbers>
#include <optional>
#include <string>

#include "model/families.h"
#include "strict_json.h"
#include "vga/error.h"

namespace vga {
namespace {

using nlohmann::json;
using Gate = AttentionGate;

constexpr double max_rope_factor = 1e6;  // as for linear scaling

/// The keys of one JSON object. A key that is null counts as absent, as in Hugging Face's files.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object())
      throw Error(where_, "wanted an object, found " + describe_json(object));
  }

  [[noreturn]] void fail(std::string_view key, std::string_view wanted) const {
    throw Error(where_, "key '" + std::string(key) + "': wanted " + std::string(wanted) +
                            ", found " + describe_json(object_.at(std::string(key))));
  }
  std::string where(std::string_view key) const {
    return where_ + ": key '" + std::string(key) + "'";
  }
  const json& object() const { return object_; }

  const json* find(std::string_view key) const {
    const auto found = object_.find(std::string(key));
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  std::optional<size_t> integer(std::string_view key, size_t max) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number_unsigned() || value->get<uint64_t>() < 1 ||
        value->get<uint64_t>() > max) {
      fail(key, "a whole number from 1 to " + std::to_string(max));
    }
    return value->get<size_t>();
  }
  std::optional<double> real(std::string_view key) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    const bool good = value->is_number() && std::isfinite(value->get<double>());
    if (!good || value->get<double>() <= 0) fail(key, "a positive number");
    return value->get<double>();
  }
  std::optional<bool> boolean(std::string_view key) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) fail(key, "true or false");
    return value->get<bool>();
  }
  std::optional<std::string> string(std::string_view key) const {
    const json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) fail(key, "a string");
    return value->get<std::string>();
  }

  template <class T>
  T required(std::string_view key, std::optional<T> value) const {
    if (!value) throw Error(where_, "key '" + std::string(key) + "' is missing");
    return *std::move(value);
  }

  /// The choice whose name() is the string at `key`.
  template <class Enum>
  Enum choice(std::string_view key, std::initializer_list<Enum> choices) const {
    const std::string found = required(key, string(key));
    std::string wanted;
    for (const Enum c : choices) {
      if (found == vga::name(c)) return c;
      wanted += (wanted.empty() ? "" : " or ") + std::string(vga::name(c));
    }
    fail(key, wanted);
  }

 private:
  const json& object_;
  std::string where_;
};

Gate parse_gate(const Fields& fields) {
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

/// What Llama 3.1 divides its frequencies by so that it can read beyond the context it was first
/// trained for: those that turn often within it stay, those that hardly turn are divided by
/// `factor`, the ones between follow smoothly. `apply_scaling()` in Meta's reference implementation
/// (github.com/meta-llama/llama-models, models/llama3/model.py).
std::vector<float> llama3_factors(const Fields& fields, const Config& config) {
  const auto real = [&](std::string_view key) { return fields.required(key, fields.real(key)); };
  const double factor = real("factor");
  if (factor < 1 || factor > max_rope_factor) fields.fail("factor", "a number from 1 to 1e6");
  const double low = real("low_freq_factor");  // turns within the original context
  const double high = real("high_freq_factor");
  const double context = real("original_max_position_embeddings");
  if (high <= low) fields.fail("high_freq_factor", "more than low_freq_factor");
  std::vector<float> factors(config.rope_dim / 2);
  for (size_t i = 0; i < factors.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.rope_dim);
    const double frequency = std::pow(config.rope_tables[0].theta, exponent);
    const double turns = context * frequency / (2 * std::numbers::pi);
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    factors[i] = static_cast<float>(1 / ((1 - kept) / factor + kept));
  }
  return factors;
}

struct RopeScaling {
  double scale = 1;
  std::vector<float> factors;
};

/// `rope_scaling`, or `rope_parameters` as newer files call it, which may hold theta as well.
RopeScaling parse_rope(const Fields& fields, const Config& config) {
  RopeScaling rope;
  if (fields.real("partial_rotary_factor").value_or(1) != 1) {
    fields.fail("partial_rotary_factor", "1");
  }
  const std::string_view key = fields.find("rope_type") != nullptr ? "rope_type" : "type";
  const auto type = fields.string(key);
  std::vector<std::string_view> known = {"rope_type", "type", "rope_theta",
                                         "partial_rotary_factor"};
  if (type == "linear") {
    rope.scale = fields.required("factor", fields.real("factor"));
    known.push_back("factor");
  } else if (type == "llama3") {
    rope.factors = llama3_factors(fields, config);
    known.insert(known.end(), {"factor", "low_freq_factor", "high_freq_factor",
                               "original_max_position_embeddings"});
  } else if (type == "default") {
    // Some files write a factor that says nothing.
    if (fields.real("factor").value_or(1) != 1) fields.fail("factor", "1 or none");
    known.push_back("factor");
  } else if (type) {
    throw Error(fields.where(key), "wanted default, linear or llama3, found \"" + *type +
                                       "\", which " + std::string(rope_scaling_obstacle(*type)));
  }
  for (const auto& [other, value] : fields.object().items()) {
    if (std::ranges::find(known, other) != known.end() || value.is_null()) continue;
    throw Error(fields.where(other), type ? "not known for rope_type \"" + *type + "\""
                                          : "wanted a rope_type beside it");
  }
  return rope;
}

/// A file may describe RoPE at the top level, in `rope_scaling` and in `rope_parameters`; what it
/// says twice must be the same.
void parse_ropes(const Fields& fields, ConfigJson& parsed) {
  Config& config = parsed.config;
  std::optional<double> theta = fields.real("rope_theta");
  // Both objects may need the theta that only one of them has.
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    const json* rope = fields.find(key);
    if (rope == nullptr) continue;
    const Fields inner(*rope, fields.where(key));
    const auto found = inner.real("rope_theta");
    if (found && theta.value_or(*found) != *found) {
      inner.fail("rope_theta", "the " + json(*theta).dump() + " that stands elsewhere in the file");
    }
    if (found) theta = found;
  }
  RopeTable& table = config.rope_tables[0];
  table.theta = theta.value_or(table.theta);
  std::optional<RopeScaling> first;
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    const json* object = fields.find(key);
    if (object == nullptr) continue;
    const RopeScaling rope = parse_rope(Fields(*object, fields.where(key)), config);
    if (first && (first->scale != rope.scale || first->factors != rope.factors)) {
      throw Error(fields.where(key), "contradicts key 'rope_scaling'");
    }
    first = rope;
  }
  if (!first) return;
  table.factor = first->scale;
  if (table.factor != 1) table.scaling = RopeTable::Scaling::linear;
  if (!first->factors.empty()) config.rope_factors = RopeFactors::fixed;
  parsed.rope_factors = std::move(first->factors);
}

/// What changes the model's function in ways that the runtime has no ops for.
void refuse_unsupported(const Fields& fields) {
  for (const std::string_view key : {"attention_bias", "mlp_bias"}) {
    if (fields.boolean(key).value_or(false)) fields.fail(key, "false");
  }
  if (fields.string("hidden_act").value_or("silu") != "silu") fields.fail("hidden_act", "silu");
  if (fields.real("partial_rotary_factor").value_or(1) != 1) {
    fields.fail("partial_rotary_factor", "1");
  }
  if (fields.find("quantization_config") != nullptr) {
    fields.fail("quantization_config", "an unquantized checkpoint");
  }
  // 0 is none too.
  if (const json* window = fields.find("sliding_window"); window != nullptr && *window != 0) {
    fields.fail("sliding_window", "null: every token attends to all before it");
  }
}

std::string_view parse_family(const Fields& fields) {
  const std::string type = fields.required("model_type", fields.string("model_type"));
  if (type == "vga") return "vga";
  if (type == "llama" || type == "mistral") return "llama";
  fields.fail("model_type", "vga, llama or mistral");
}

}  // namespace

ConfigJson parse_config_json(std::span<const std::byte> text, std::string_view where) {
  const json root = parse_python_json(text, where);
  const Fields fields(root, std::string(where));
  const auto integer = [&](std::string_view key, size_t max) {
    return fields.required(key, fields.integer(key, max));
  };
  ConfigJson parsed;
  Config& c = parsed.config;
  c = *family_options(parse_family(fields));
  refuse_unsupported(fields);
  c.vocab_size = integer("vocab_size", max_vocab);
  c.context_length = integer("max_position_embeddings", max_context);
  c.hidden_size = integer("hidden_size", max_width);
  c.ffn_size = integer("intermediate_size", max_width);
  c.n_heads = integer("num_attention_heads", max_width);
  c.n_kv_heads = fields.integer("num_key_value_heads", c.n_heads).value_or(c.n_heads);
  if (c.n_heads % c.n_kv_heads != 0) {
    fields.fail("num_key_value_heads", "a divisor of the " + std::to_string(c.n_heads) + " heads");
  }
  const auto head_dim = fields.integer("head_dim", max_width);
  if (!head_dim && c.hidden_size % c.n_heads != 0) {
    fields.fail("num_attention_heads", "a divisor of hidden_size, as head_dim is not given");
  }
  c.head_dim = head_dim.value_or(c.hidden_size / c.n_heads);
  c.rope_dim = c.head_dim;
  set_layers(c, integer("num_hidden_layers", max_layers));
  c.norm_eps = static_cast<float>(fields.required("rms_norm_eps", fields.real("rms_norm_eps")));
  parse_ropes(fields, parsed);
  c.tied_embeddings = fields.boolean("tie_word_embeddings").value_or(false);

  const json* gate = fields.find("attention_gate");
  if (gate != nullptr) c.gate = parse_gate(Fields(*gate, fields.where("attention_gate")));
  if (c.family == "vga" && gate == nullptr) {
    throw Error(where,
                "key 'attention_gate' is missing; a vga model must say which gate it has, "
                "even if it is {\"source\": \"none\"}");
  }
  if (c.family == "llama" && c.gate) {
    fields.fail("attention_gate", "no gate in a llama model (model_type vga has one)");
  }
  validate(c, where);
  return parsed;
}

}  // namespace vga
