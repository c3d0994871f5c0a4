#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "config.h"

namespace vga {

/// The Config that a Hugging Face style config.json describes, model_type "vga" or "llama",
/// validated. What the runtime cannot represent (attention biases, another activation, a RoPE
/// scaling other than linear, a gate it does not know) is an Error naming `where` and the key,
/// never ignored.
Config parse_config_json(std::span<const std::byte> text, std::string_view where);

}  // namespace vga
