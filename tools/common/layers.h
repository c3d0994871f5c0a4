#pragma once

#include <string>

#include "vga/config.h"

namespace vga {

// What layers have for themselves, in words; empty where they are all alike.

/// "15 of 18 layers see 512 positions": those with a window of their own.
std::string layer_windows(const Config& config);
/// "18 of 24 layers are delta nets, which remember what left a window in their own way".
std::string layer_mixers(const Config& config);
/// "54 of 56 layers have 128 experts, of which a token takes 8 and a shared one": those that have.
std::string layer_experts(const Config& config);

}  // namespace vga
