#pragma once

#include <string>

#include "vga/config.h"

namespace vga {

/// "15 of 18 layers see 512 positions": those with a window of their own; empty without any.
std::string layer_windows(const Config& config);

}  // namespace vga
