#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "source_tensor.h"

namespace vga {

/// The tensors of a safetensors file; they point into `bytes`. The header must describe the file
/// completely: tensors back to back, no holes, no overlaps, ending exactly where the file ends.
/// Whatever breaks the format is an Error naming `where` and the tensor or offset.
SourceTensors parse_safetensors(std::span<const std::byte> bytes, std::string_view where);

/// The text of a model.safetensors.index.json: which shard holds which tensor. Shards are names of
/// files in the same folder; anything that leads elsewhere is an Error.
std::map<std::string, std::string> parse_safetensors_index(std::span<const std::byte> bytes,
                                                           std::string_view where);

}  // namespace vga
