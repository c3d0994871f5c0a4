#pragma once

#include <cstddef>
#include <cstdint>

#include "compute/cache_plan.h"
#include "vga/vga.h"

namespace vga {

// What a session's options ask for: whether they are in range, and what memory they take.

/// Logits that are computed, and brought to the host, at once: those of a whole batch would take as
/// much memory as a small model. As many rows as matmul.comp takes for one reading of the weights.
constexpr size_t logits_rows = 64;

/// An Error naming the option that is out of range, or that does not go with this model.
void validate(const SessionOptions& options, const Config& config);
/// An Error if the host has no room for what a session keeps of layers [first, n_layers).
void check_room(const Config& config, const SessionOptions& options, size_t first);
/// Bytes of keys, values and states of the first layers.
uint64_t plan_bytes(const CachePlan& plan, size_t n_layers);

}  // namespace vga
