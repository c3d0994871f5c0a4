#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "vga/config.h"

namespace vga {

/// What a config.json says of a model.
struct ConfigJson {
  Config config;
  std::vector<float> rope_factors;  // (rope_dim / 2), empty if config.rope_factors is none
};

/// Reads a Hugging Face style config.json of model_type "vga", "llama" or "mistral" (a llama with
/// another name), validated. What the runtime cannot represent (attention biases, another
/// activation, a sliding window, a RoPE scaling other than linear and llama3, a gate it does not
/// know) is an Error naming `where` and the key, never ignored.
ConfigJson parse_config_json(std::span<const std::byte> text, std::string_view where);

}  // namespace vga
