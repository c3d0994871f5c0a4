#include "peft.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/text.h"
#include "checkpoint_files.h"
#include "config_json.h"
#include "json_fields.h"
#include "model/families.h"
#include "names.h"
#include "strict_json.h"
#include "transform.h"
#include "vga/error.h"

namespace vga {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// -- adapter_config.json --------------------------------------------------------------------------

bool says_something(const json* value) {
  if (value == nullptr) return false;
  if (value->is_boolean()) return value->get<bool>();
  return !value->is_structured() || !value->empty();
}

/// What makes an adapter more than low-rank updates.
void refuse_other_kinds(const JsonFields& fields) {
  constexpr std::array<std::pair<const char*, const char*>, 10> others = {{
      {"use_dora", "no DoRA, which scales whole columns of a matrix"},
      {"use_qalora", "no QA-LoRA, which updates means of inputs"},
      {"use_bdlora", "no block-diagonal updates"},
      {"lora_bias", "no biases in updates"},
      {"layer_replication", "the layers of the base, none twice"},
      {"alora_invocation_tokens", "updates that apply to all tokens"},
      {"trainable_token_indices", "no tokens with embeddings of their own"},
      {"target_parameters", "updates of linear layers, by their names"},
      {"arrow_config", "one adapter, not a choice among many"},
      {"kasa_config", "no KaSA, which has singular values beside the updates"},
  }};
  for (const auto& [key, wanted] : others) {
    if (says_something(fields.find(key))) fields.fail(key, wanted);
  }
  // These begin by taking something out of the base.
  const json* begun = fields.find("init_lora_weights");
  if (begun == nullptr || !begun->is_string()) return;
  for (const char* kind : {"pissa", "olora", "corda", "loftq", "lora_ga"}) {
    if (!begun->get<std::string>().starts_with(kind)) continue;
    fields.fail("init_lora_weights",
                "updates of the base as it is, not of what this leaves of it (PEFT: "
                "save_pretrained() with path_initial_model_for_weight_conversion)");
  }
}

std::vector<PeftPattern> read_patterns(const JsonFields& fields, std::string_view key) {
  std::vector<PeftPattern> patterns;
  const auto found = fields.fields(key);
  if (!found) return patterns;
  for (const auto& [regex, value] : found->object().items()) {
    patterns.push_back({regex, found->required(regex, found->real(regex))});
  }
  return patterns;
}

void read_config(const JsonFields& fields, PeftAdapter& adapter) {
  const std::string kind = fields.required("peft_type", fields.string("peft_type"));
  if (kind != "LORA") fields.fail("peft_type", "LORA");
  refuse_other_kinds(fields);
  const std::string bias = fields.string("bias").value_or("none");
  if (bias != "none" && bias != "all" && bias != "lora_only") {
    fields.fail("bias", "none, all or lora_only");
  }
  const json* rank = fields.find("r");
  const bool only_gates = rank != nullptr && *rank == 0;
  if (!only_gates) {
    adapter.rank = fields.required("r", fields.integer("r", max_width));
    adapter.alpha = fields.required("lora_alpha", fields.real("lora_alpha"));
  }
  adapter.by_root = fields.boolean("use_rslora").value_or(false);
  adapter.rank_patterns = read_patterns(fields, "rank_pattern");
  adapter.alpha_patterns = read_patterns(fields, "alpha_pattern");
  if (const auto gate = fields.fields("attention_gate")) adapter.gate = parse_gate(*gate);
}

// -- Patterns -------------------------------------------------------------------------------------

/// Whether the name of a module is the regex, or ends with a dot and what that matches.
bool matches(const PeftPattern& pattern, const std::string& module, const std::string& where) {
  const auto fail = [&](int code) {
    std::array<PCRE2_UCHAR, 256> message{};
    pcre2_get_error_message(code, message.data(), message.size());
    throw Error(where,
                "regex '" + pattern.regex + "': " + reinterpret_cast<const char*>(message.data()));
  };
  const auto text = [](const std::string& s) { return reinterpret_cast<PCRE2_SPTR>(s.data()); };
  const std::string whole = "^(?:.*\\.)?(?:" + pattern.regex + ")$";
  int error = 0;
  PCRE2_SIZE at = 0;
  const std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code(
      pcre2_compile(text(whole), whole.size(), 0, &error, &at, nullptr), pcre2_code_free);
  if (code == nullptr) fail(error);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  pcre2_set_match_limit(context.get(), 100000);  // a regex from outside may want for ever
  const int found =
      pcre2_match(code.get(), text(module), module.size(), 0, 0, data.get(), context.get());
  if (found < 0 && found != PCRE2_ERROR_NOMATCH) fail(found);
  return found >= 0;
}

/// What the one pattern that matches says, else `otherwise`.
double value_for(const std::vector<PeftPattern>& patterns, const std::string& module,
                 double otherwise, const std::string& where) {
  const PeftPattern* chosen = nullptr;
  for (const PeftPattern& pattern : patterns) {
    if (!matches(pattern, module, where)) continue;
    if (chosen != nullptr && chosen->value != pattern.value) {
      throw Error(where, "'" + chosen->regex + "' and '" + pattern.regex + "' both match '" +
                             module + "'; wanted one value for it");
    }
    chosen = &pattern;
  }
  return chosen == nullptr ? otherwise : chosen->value;
}

// -- Tensors --------------------------------------------------------------------------------------

constexpr std::string_view half_a = ".lora_A.weight";
constexpr std::string_view half_b = ".lora_B.weight";

/// A tensor of the folder, and what it is without the wrappers' names.
struct NamedUpdate {
  const std::string* source_name;
  const SourceTensor* tensor;
  std::string name;
};

/// What a weight of the base gets.
struct Change {
  const NamedUpdate* whole = nullptr;
  const NamedUpdate* a = nullptr;
  const NamedUpdate* b = nullptr;
  std::string module;  // that an update is of
  Transform transform = Transform::none;
};

class Planner {
 public:
  Planner(const PeftAdapter& adapter, const Gguf& base, DType type)
      : adapter_(adapter),
        base_file_(base.file_name()),
        config_(vga::read_config(base)),
        type_(type) {
    bind_weights(base, config_);  // it is what its config says
    if (adapter.gate && has_own_gate(config_.family)) {
      throw Error(adapter.config_path + ": key 'attention_gate'",
                  "wanted none: " + base_file_ + " has that of its family");
    }
    if (adapter.gate) config_.gate = *adapter.gate;
    for (WeightSpec& spec : weight_specs(config_)) {
      order_.push_back(spec.name);
      specs_.emplace(spec.name, std::move(spec));
    }
    for (const auto& [source_name, tensor] : adapter.tensors) {
      std::string name = unwrapped_name(source_name);
      constexpr std::string_view wrapper = "base_model.model.";
      if (name.starts_with(wrapper)) name.erase(0, wrapper.size());
      named_.push_back({&source_name, &tensor, std::move(name)});
    }
  }

  Conversion plan() {
    const NameMap map = name_map();
    for (const NamedUpdate& named : named_) assign(named, map);
    write_metadata();
    for (const std::string& name : order_) {
      const WeightSpec& spec = specs_.at(name);
      const auto at = changes_.find(name);
      if (spec.is_gate() && adapter_.gate &&
          (at == changes_.end() || at->second.whole == nullptr)) {
        throw Error(adapter_.path, "tensor '" + map.source_of(name) + "' is missing, wanted " +
                                       bracketed(spec.shape()));
      }
      if (at == changes_.end()) continue;
      if (at->second.whole != nullptr) plan_whole(spec, at->second);
      if (at->second.a != nullptr || at->second.b != nullptr) plan_update(spec, at->second);
    }
    if (conversion_.tensors.empty()) throw Error(adapter_.path, "changes nothing");
    return std::move(conversion_);
  }

 private:
  std::string where(const NamedUpdate& named) const {
    return adapter_.path + ": tensor '" + *named.source_name + "'";
  }

  /// The model may be a part of another one, which stands before its layers then.
  NameMap name_map() const {
    const NameTable& table = name_table(model_type_of(config_.family));
    const std::string block = std::string(table.block);
    std::vector<std::string> embeddings;
    for (const NamedUpdate& named : named_) {
      for (size_t at = named.name.find(block); at != named.name.npos;
           at = named.name.find(block, at + 1)) {
        const size_t digit = at + block.size();
        const bool is_block = (at == 0 || named.name[at - 1] == '.') && digit < named.name.size() &&
                              named.name[digit] >= '0' && named.name[digit] <= '9';
        if (!is_block) continue;
        const std::string embedding =
            named.name.substr(0, at) + std::string(table.model[0].from) + ".weight";
        if (std::ranges::find(embeddings, embedding) == embeddings.end()) {
          embeddings.push_back(embedding);
        }
        break;
      }
    }
    return {table, embeddings};
  }

  /// Finds out what a tensor changes.
  void assign(const NamedUpdate& named, const NameMap& map) {
    const bool is_a = named.name.ends_with(half_a);
    const bool is_b = named.name.ends_with(half_b);
    if (is_adapter(named.name) && !is_a && !is_b) {
      throw Error(where(named),
                  "wanted lora_A.weight or lora_B.weight: nothing else of an adapter "
                  "is known here");
    }
    const std::string module =
        is_a || is_b ? named.name.substr(0, named.name.size() - half_a.size()) : std::string();
    const auto targets = map.find(module.empty() ? named.name : module + ".weight");
    if (targets.size() > 1) {
      throw Error(where(named), "is of what are several tensors in " + base_file_ +
                                    ", which adapters cannot change");
    }
    const Target target = targets.empty() ? Target{} : targets.front();
    const auto spec = specs_.find(target.name);  // none has an empty name
    if (spec == specs_.end()) {
      throw Error(where(named), "is of no part of " + base_file_ +
                                    (named.name.find("attn.gate_proj") != named.name.npos
                                         ? "; a gate wants an attention_gate in "
                                           "adapter_config.json"
                                         : ""));
    }
    Change& change = changes_[target.name];
    change.transform = target.transform;
    if (change.transform == Transform::rotated && config_.half_split) {
      change.transform = Transform::none;
    }
    if (module.empty()) {
      take_whole(named, spec->second, change);
      return;
    }
    if (spec->second.is_matrix() && !spec->second.takes_updates()) {
      throw Error(where(named),
                  "is an update of '" + target.name + "', whose weights are several in one tensor");
    }
    if (!spec->second.is_matrix()) {
      throw Error(where(named),
                  "is an update of '" + target.name + "', which nothing is multiplied by");
    }
    change.module = module;
    const NamedUpdate*& half = is_a ? change.a : change.b;
    if (half != nullptr)
      throw Error(where(named), "means the same as '" + *half->source_name + "'");
    half = &named;
  }

  void take_whole(const NamedUpdate& named, const WeightSpec& spec, Change& change) {
    const bool is_vector = spec.role == Role::norm || spec.role == Role::bias;
    if (is_vector || (spec.is_gate() && adapter_.gate)) {
      change.whole = &named;
    } else if (named.source_name->find(".base_layer.") != std::string::npos &&
               named.tensor->shape == spec.shape()) {
      // PEFT saves the base's own matrix along with its update where that makes logits.
      conversion_.skipped.push_back({*named.source_name, "taken for the base's own"});
    } else {
      throw Error(where(named), "is a whole matrix " + bracketed(named.tensor->shape) +
                                    "; beside low-rank updates an adapter holds vectors and gates "
                                    "alone (PEFT: modules_to_save)");
    }
  }

  void write_metadata() {
    GgufWriter& writer = conversion_.writer;
    writer.add("general.architecture", std::string_view(config_.family));
    writer.add("general.type", "adapter");
    writer.add("general.name", std::string_view(adapter_.name));
    writer.add("adapter.type", "lora");
    writer.add("adapter.lora.alpha", static_cast<float>(alpha()));
    if (adapter_.gate) write_gate(*adapter_.gate, config_.family, writer);
  }

  /// What the file has as alpha, to be divided by each rank: that of updates which no pattern
  /// matches.
  double alpha() const {
    const auto rank = static_cast<double>(adapter_.rank);
    return adapter_.by_root ? adapter_.alpha * std::sqrt(rank) : adapter_.alpha;
  }

  /// What an update is to be multiplied by beside what the file's alpha does.
  double factor_of(const Change& change, size_t rank) const {
    const auto r = static_cast<double>(rank);
    const double own = value_for(adapter_.alpha_patterns, change.module, adapter_.alpha,
                                 adapter_.config_path + ": key 'alpha_pattern'");
    const double factor = (adapter_.by_root ? own * std::sqrt(r) : own) / alpha();
    return std::abs(factor - 1) < 1e-9 ? 1 : factor;
  }

  void check(const NamedUpdate& named, const SourceTensor& tensor,
             std::vector<uint64_t> wanted) const {
    if (tensor.shape != wanted) {
      throw Error(where(named), "wanted shape " + bracketed(wanted) + " for " + base_file_ +
                                    ", found " + bracketed(tensor.shape));
    }
    if (!tensor.type) {
      throw Error(where(named), "wanted f32, f16 or bf16 values, found " + tensor.type_name);
    }
  }

  void plan_whole(const WeightSpec& spec, const Change& change) {
    const TransformedTensor source(*change.whole->tensor, change.transform, config_);
    check(*change.whole, source.source(), spec.shape());
    plan_tensor(conversion_,
                {spec, source.source().type_name, where(*change.whole), DType::f32, DType::f32,
                 [source](size_t r, std::span<float> row) { source.read_row(r, row); }});
  }

  void plan_update(const WeightSpec& spec, const Change& change) {
    if (change.a == nullptr || change.b == nullptr) {
      const NamedUpdate& half = change.a != nullptr ? *change.a : *change.b;
      throw Error(where(half), "is one half of an update, the other is missing");
    }
    if (adapter_.rank == 0) {
      throw Error(adapter_.config_path + ": key 'r'",
                  "is 0, which is for gates alone, but " + change.a->name + " is of an update");
    }
    const SourceTensor& a = *change.a->tensor;
    const auto wanted =
        value_for(adapter_.rank_patterns, change.module, static_cast<double>(adapter_.rank),
                  adapter_.config_path + ": key 'rank_pattern'");
    if (a.shape.size() != 2 || static_cast<double>(a.shape[0]) != wanted) {
      throw Error(where(*change.a), "wanted " + short_real(wanted) +
                                        " rows, the rank that adapter_config.json says, found " +
                                        bracketed(a.shape));
    }
    const size_t rank = a.shape[0];
    check(*change.a, a, {rank, spec.cols});
    // PEFT has updates of transposed matrices as those of others. What is done to inputs is done to
    // `a`, what is done to outputs to `b`.
    const Transform whole = change.transform;
    const bool of_inputs = whole == Transform::value_columns;
    const bool stays =
        of_inputs || whole == Transform::transposed || whole == Transform::single_row;
    const TransformedTensor inputs(a, of_inputs ? whole : Transform::none, config_);
    const TransformedTensor b(*change.b->tensor, stays ? Transform::none : whole, config_);
    check(*change.b, b.source(), {spec.rows, rank});
    plan_half(spec, ".lora_a", {rank, spec.cols}, *change.a,
              [inputs](size_t r, std::span<float> row) { inputs.read_row(r, row); });
    plan_half(
        spec, ".lora_b", {spec.rows, rank}, *change.b,
        [b, factor = static_cast<float>(factor_of(change, rank))](size_t r, std::span<float> row) {
          b.read_row(r, row);
          for (float& x : row) x *= factor;
        });
  }

  void plan_half(const WeightSpec& of, const char* suffix, std::array<size_t, 2> shape,
                 const NamedUpdate& named, TensorEncoder::ReadRow read_row) {
    const WeightSpec spec = {of.name + suffix, of.role, of.layer, shape[0], shape[1]};
    plan_tensor(conversion_,
                {spec, named.tensor->type_name, where(named), type_, type_, std::move(read_row)});
  }

  static std::string short_real(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", value);
    return text;
  }

  const PeftAdapter& adapter_;
  std::string base_file_;
  Config config_;  // the base's, with the gate
  DType type_;
  std::vector<std::string> order_;  // of what the base is made of
  std::map<std::string, WeightSpec, std::less<>> specs_;
  std::vector<NamedUpdate> named_;
  std::map<std::string, Change, std::less<>> changes_;  // by the names of the base
  Conversion conversion_;
};

}  // namespace

PeftAdapter open_peft(const fs::path& folder) {
  PeftAdapter adapter;
  adapter.path = folder.string();
  const fs::path plain = (folder / "").lexically_normal().parent_path();
  adapter.name = plain.filename().string();
  const fs::path config = folder / "adapter_config.json";
  adapter.config_path = config.string();
  const json fields = parse_python_json(open_json(adapter.files, config), config.string());
  read_config(JsonFields(fields, config.string()), adapter);
  for (const char* name : {"adapter_model.safetensors", "adapter_model.bin"}) {
    if (!is_there(folder / name)) continue;
    adapter.tensors = parse_weights(open_file(adapter.files, folder / name), folder / name);
    return adapter;
  }
  throw Error(folder.string(), "has neither adapter_model.safetensors nor adapter_model.bin");
}

Conversion plan_adapter(const PeftAdapter& adapter, const Gguf& base, DType type) {
  if (!is_plain(type)) {
    throw Error("--type",
                "wanted f32, f16 or bf16 for an adapter, found " + std::string(name(type)));
  }
  return Planner(adapter, base, type).plan();
}

}  // namespace vga
