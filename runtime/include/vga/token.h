#pragma once

#include <cstdint>

namespace vga {

/// An index into the vocabulary.
using Token = int32_t;

}  // namespace vga
