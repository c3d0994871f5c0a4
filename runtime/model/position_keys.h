#pragma once

#include <vector>

#include "model/family_keys.h"
#include "vga/config.h"

namespace vga {

// The keys of positions that several families have: windows, and the angles of RoPE.

/// Lets those layers slide; see set_windows() for their tables.
void set_sliding(Config& c, size_t window, const std::vector<bool>& slides);
/// All but the last layer of each period; 0 is all.
std::vector<bool> by_period(size_t n_layers, size_t period);

/// A window that the file tells, and which layers have it: a period, or a bool for each layer.
void read_windows(const Keys& keys, Config& c, size_t default_window, size_t default_period);
void read_window_of_all(const Keys& keys, Config& c);
void write_windows(const Config& c, const KeyWriter& keys);

/// A second table of angles for the layers that slide, unless it is the same.
void read_sliding_table(const Keys& keys, Config& c, double default_theta);
void write_sliding_table(const Config& c, const KeyWriter& keys);

void read_rope(const Keys& keys, Config& c);
void write_rope(const Config& c, const KeyWriter& keys);

}  // namespace vga
