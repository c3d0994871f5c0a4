#pragma once

#include <cstddef>

namespace vga {

/// Bytes per second that `n_threads` threads can read from memory together: plain sums over buffers
/// much larger than the caches, in huge pages where the system has them, best of several passes.
/// The ceiling for a decoded token, which must read all weights once. Takes about half a second,
/// with progress on a terminal, and at most 1 GiB or a quarter of what memory is free; interrupted,
/// it is of fewer passes, or 0.
double measure_memory_bandwidth(size_t n_threads);

}  // namespace vga
