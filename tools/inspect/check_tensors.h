#pragma once

#include <cstddef>

#include "gguf/gguf.h"
#include "vga/config.h"

namespace vga {

/// Prints a line on stderr for every tensor with NaN or infinity in it and, of a model that can be
/// run, for every layer that may make keys or values that an f16 cache cannot hold; how many lines
/// that were. `config` is null for a file that cannot be run.
size_t check_tensors(const Gguf& gguf, const Config* config);

}  // namespace vga
