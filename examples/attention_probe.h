#pragma once

#include <span>
#include <vector>

#include "vga.h"

namespace vga {

/// How much one layer makes of the first token of a text: what explains whether a model can do
/// without it. Means over pieces of text, over heads, and over the queries from
/// `first_probed_query` on, which have others to look at.
struct FirstTokenUse {
  double first_attention = 0;        // attention weight on the first position
  double gated_first_attention = 0;  // times the gate that scales it; the same without a gate
  double value_norm_ratio = 0;       // norm of the first token's value / mean norm of the others
};

constexpr size_t first_probed_query = 32;

/// Runs each of `pieces` (all longer than first_probed_query) from the beginning, with attention
/// over everything before. One entry per layer.
std::vector<FirstTokenUse> probe_first_token(const Model& model,
                                             std::span<const std::vector<Token>> pieces,
                                             size_t n_threads);

}  // namespace vga
