#pragma once

#include <memory>

#include "compute/backend.h"
#include "cpu/kernels.h"

namespace vga::cpu {

/// A backend on `n_threads` threads (0: one per physical core) that computes with `kernels`.
/// Weights have to be arranged for them.
std::unique_ptr<Backend> new_backend(size_t n_threads, const Kernels& kernels);

}  // namespace vga::cpu
