#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "json_fields.h"
#include "vga/config.h"

namespace vga {

/// What a config.json says of a model.
struct ConfigJson {
  std::string_view model_type;  // names.h knows the names of its tensors
  Config config;
  std::vector<float> rope_factors;       // (rope_dim / 2), as Config::rope_factors says
  std::vector<float> rope_factors_long;  // the same for long contexts
};

/// Reads a Hugging Face style config.json of "vga" or one of the model types in config_json.cpp, in
/// today's form (`rope_parameters`) and in older ones, `text_config` where it is nested; validated.
/// What the runtime cannot represent (another activation, a window where the family has none, a
/// RoPE scaling that it does not know, an unknown gate) is an Error naming `where` and the key,
/// never ignored.
ConfigJson parse_config_json(std::span<const std::byte> text, std::string_view where);

/// The first type of model that has this family, whose names its tensors have.
std::string_view model_type_of(std::string_view family);

/// What `attention_gate` says; the same in the adapter_config.json of a gate.
AttentionGate parse_gate(const JsonFields& fields);

}  // namespace vga
