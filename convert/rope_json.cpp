#include "rope_json.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "model/families.h"
#include "vga/error.h"

namespace vga {
namespace {

using nlohmann::json;

constexpr double max_factor = 1e6;
constexpr std::string_view original_key = "original_max_position_embeddings";

/// One object that describes RoPE.
struct Scaling {
  RopeTable table;
  RopeFactors kind = RopeFactors::none;
  std::vector<float> factors;
  std::vector<float> long_factors;
  size_t original_context = 0;

  bool operator==(const Scaling&) const = default;
};

/// What all descriptions in a file start from.
struct Base {
  const JsonFields& root;
  double theta;
  size_t rope_dim;
  size_t context;  // of the model
};

double factor_in(const JsonFields& fields) {
  const double factor = fields.required("factor", fields.real("factor"));
  if (factor < 1 || factor > max_factor) fields.fail("factor", "a number from 1 to 1e6");
  return factor;
}

/// The context of the first training, which may stand at the top of the file.
size_t original_context(const JsonFields& fields, const Base& base) {
  for (const JsonFields* place : {&fields, &base.root}) {
    if (const auto found = place->integer(original_key, max_context)) return *found;
  }
  return base.context;
}

/// What Llama 3.1 divides its frequencies by so that it can read beyond the context it was first
/// trained for: those that turn often within it stay, those that hardly turn are divided by
/// `factor`, the ones between follow smoothly. `apply_scaling()` in Meta's reference implementation
/// (github.com/meta-llama/llama-models, models/llama3/model.py).
std::vector<float> llama3_factors(const JsonFields& fields, double theta, size_t rope_dim) {
  const auto real = [&](std::string_view key) { return fields.required(key, fields.real(key)); };
  const double factor = factor_in(fields);
  const double low = real("low_freq_factor");  // turns within the original context
  const double high = real("high_freq_factor");
  const double context = real(original_key);
  if (high <= low) fields.fail("high_freq_factor", "more than low_freq_factor");
  std::vector<float> factors(rope_dim / 2);
  for (size_t i = 0; i < factors.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(rope_dim);
    const double turns = context * std::pow(theta, exponent) / (2 * std::numbers::pi);
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    factors[i] = static_cast<float>(1 / ((1 - kept) / factor + kept));
  }
  return factors;
}

void read_yarn(const JsonFields& fields, const Base& base, Scaling& scaling) {
  RopeTable& table = scaling.table;
  table.scaling = RopeTable::Scaling::yarn;
  table.factor = factor_in(fields);
  table.beta_fast = fields.real("beta_fast").value_or(table.beta_fast);
  table.beta_slow = fields.real("beta_slow").value_or(table.beta_slow);
  const auto magnitude = [&](double scale) { return 1 + 0.1 * scale * std::log(table.factor); };
  const auto mscale = fields.real("mscale");
  const auto all_dim = fields.real("mscale_all_dim");
  const double usual = mscale && all_dim ? magnitude(*mscale) / magnitude(*all_dim) : magnitude(1);
  table.magnitude = static_cast<float>(fields.real("attention_factor").value_or(usual));
  if (!fields.boolean("truncate").value_or(true)) fields.fail("truncate", "true");
  scaling.original_context = original_context(fields, base);
}

/// arXiv 2402.13753, with the magnitude that grows with the context.
void read_longrope(const JsonFields& fields, const Base& base, Scaling& scaling) {
  scaling.kind = RopeFactors::by_context;
  scaling.original_context = original_context(fields, base);
  const auto divisors = [&](std::string_view key) {
    auto found = fields.required(key, fields.reals(key));
    if (found.size() != base.rope_dim / 2) {
      throw Error(fields.where(key), "wanted " + std::to_string(base.rope_dim / 2) +
                                         " numbers, found " + std::to_string(found.size()));
    }
    return found;
  };
  scaling.factors = divisors("short_factor");
  scaling.long_factors = divisors("long_factor");
  const auto original = static_cast<double>(scaling.original_context);
  const double factor =
      fields.real("factor").value_or(static_cast<double>(base.context) / original);
  const double usual = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
  scaling.table.magnitude = static_cast<float>(fields.real("attention_factor").value_or(usual));
}

Scaling parse_scaling(const JsonFields& fields, const Base& base) {
  Scaling scaling;
  scaling.table.theta = base.theta;
  const std::string_view key = fields.has("rope_type") ? "rope_type" : "type";
  const auto type = fields.string(key);
  // Sections of a head turn by the places of what is in a picture; those of text are all the same.
  std::vector<std::string_view> known = {"rope_type",     "type",
                                         "rope_theta",    "partial_rotary_factor",
                                         "mrope_section", "mrope_interleaved"};
  if (type == "linear") {
    scaling.table.factor = factor_in(fields);
    if (scaling.table.factor != 1) scaling.table.scaling = RopeTable::Scaling::linear;
    known.push_back("factor");
  } else if (type == "llama3") {
    scaling.kind = RopeFactors::fixed;
    scaling.factors = llama3_factors(fields, base.theta, base.rope_dim);
    known.insert(known.end(), {"factor", "low_freq_factor", "high_freq_factor", original_key});
  } else if (type == "yarn") {
    read_yarn(fields, base, scaling);
    known.insert(known.end(), {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
                               "attention_factor", "truncate", original_key});
  } else if (type == "longrope" || type == "su") {
    read_longrope(fields, base, scaling);
    known.insert(known.end(),
                 {"factor", "short_factor", "long_factor", "attention_factor", original_key});
  } else if (type == "default") {
    // Some files write a factor that says nothing.
    if (fields.real("factor").value_or(1) != 1) fields.fail("factor", "1 or none");
    known.push_back("factor");
  } else if (type) {
    throw Error(fields.where(key), "wanted default, linear, llama3, yarn or longrope, found \"" +
                                       *type + "\", which " +
                                       std::string(rope_scaling_obstacle(*type)));
  }
  for (const auto& [other, value] : fields.object().items()) {
    if (std::ranges::find(known, other) != known.end() || value.is_null()) continue;
    throw Error(fields.where(other), type ? "not known for rope_type \"" + *type + "\""
                                          : "wanted a rope_type beside it");
  }
  return scaling;
}

/// A number that may stand under several keys, at the top of the file and in its descriptions of
/// RoPE, everywhere the same.
double number_in(const JsonFields& root, const std::vector<JsonFields>& places,
                 std::initializer_list<std::string_view> keys, double otherwise) {
  std::optional<double> found;
  const auto look = [&](const JsonFields& place, std::string_view key) {
    const auto here = place.real(key);
    if (!here) return;
    if (found && *found != *here) {
      place.fail(key, "the " + json(*found).dump() + " that stands elsewhere in the file");
    }
    found = here;
  };
  for (const std::string_view key : keys) look(root, key);
  for (const JsonFields& place : places) look(place, *keys.begin());
  return found.value_or(otherwise);
}

}  // namespace

RopeJson parse_rope_json(const JsonFields& fields, const Config& config, bool slides,
                         const RopeDefaults& defaults) {
  // `rope_scaling` is about the layers that see everything.
  std::vector<JsonFields> everywhere;
  std::vector<JsonFields> sliding;
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    const auto object = fields.fields(key);
    if (!object) continue;
    const auto full = object->fields("full_attention");
    const auto windowed = object->fields("sliding_attention");
    if (windowed && slides) sliding.push_back(*windowed);
    if (full) {
      everywhere.push_back(*full);
    } else if (!windowed) {
      everywhere.push_back(*object);
    }
  }
  RopeJson rope;
  const double part =
      number_in(fields, everywhere, {"partial_rotary_factor", "rotary_pct"}, defaults.rotated_part);
  rope.rope_dim = static_cast<size_t>(static_cast<double>(config.head_dim) * std::min(part, 1.0));
  if (part > 1 || rope.rope_dim < 2 || rope.rope_dim % 2 != 0) {
    throw Error(fields.where("partial_rotary_factor"),
                "wanted an even number of rotated dimensions of " +
                    std::to_string(config.head_dim) + ", found " + std::to_string(part));
  }
  const Base base{fields,
                  number_in(fields, everywhere, {"rope_theta", "rotary_emb_base"}, defaults.theta),
                  rope.rope_dim, config.context_length};
  Scaling scaling;
  scaling.table.theta = base.theta;
  for (size_t i = 0; i < everywhere.size(); ++i) {
    Scaling here = parse_scaling(everywhere[i], base);
    if (i > 0 && here != scaling) {
      throw Error(fields.where("rope_parameters"), "contradicts key 'rope_scaling'");
    }
    scaling = std::move(here);
  }
  rope.tables = {scaling.table};
  rope.kind = scaling.kind;
  rope.factors = std::move(scaling.factors);
  rope.long_factors = std::move(scaling.long_factors);
  rope.original_context = scaling.original_context;
  if (!slides) return rope;
  RopeTable plain{.theta = fields.real("rope_local_base_freq")
                               .value_or(defaults.sliding_theta.value_or(base.theta))};
  for (const JsonFields& object : sliding) {
    Base of_sliding = base;
    of_sliding.theta = object.real("rope_theta").value_or(plain.theta);
    plain = parse_scaling(object, of_sliding).table;
  }
  if (plain != rope.tables[0]) rope.tables.push_back(plain);
  return rope;
}

}  // namespace vga
