#pragma once

#include <optional>
#include <vector>

#include "json_fields.h"
#include "vga/config.h"

namespace vga {

/// How a config.json describes the angles of RoPE.
struct RopeJson {
  std::vector<RopeTable> tables;  // of layers that see everything; a second one of those that slide
  RopeFactors kind = RopeFactors::none;
  std::vector<float> factors;       // divisors by pair; of short contexts if `kind` is by_context
  std::vector<float> long_factors;  // of contexts longer than the original one
  size_t original_context = 0;
  size_t rope_dim = 0;

  bool operator==(const RopeJson&) const = default;
};

/// What transformers takes where a file says nothing.
struct RopeDefaults {
  double theta = 10000;
  std::optional<double> sliding_theta;  // the theta of the others if none
  double rotated_part = 1;              // of a head
};

/// Reads `rope_theta`, `rope_scaling` and `rope_parameters`, in which newer files have all of it,
/// for layers that see everything and those that slide apart if they differ. What a file says twice
/// must be the same. `config` has its sizes; `slides` tells whether some layers do. A kind of
/// scaling that the runtime does not compute is an Error naming the key.
RopeJson parse_rope_json(const JsonFields& fields, const Config& config, bool slides,
                         const RopeDefaults& defaults);

}  // namespace vga
