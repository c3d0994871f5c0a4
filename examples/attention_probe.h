#pragma once

#include <span>
#include <vector>

#include "vga.h"

namespace vga {

/// How much one layer makes of the first token of a text: what explains whether a model can do
/// without it. Means over pieces of text, over heads, and over queries, but for the first 32 of
/// each piece (the first half of a short one), which have little else to look at.
struct FirstTokenUse {
  double first_attention = 0;        // attention weight on the first position
  double gated_first_attention = 0;  // times the gate that scales it; the same without a gate
  double value_norm_ratio = 0;       // norm of the first token's value / mean norm of the others
};

/// Runs each of `pieces` (of at least 2 tokens) from the beginning, with attention over everything
/// before. One entry per layer.
std::vector<FirstTokenUse> probe_first_token(const Model& model,
                                             std::span<const std::vector<Token>> pieces,
                                             size_t n_threads);

}  // namespace vga
