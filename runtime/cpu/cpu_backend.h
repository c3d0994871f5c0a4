#pragma once

#include <memory>

#include "../backend.h"
#include "kernels.h"

namespace vga::cpu {

/// A backend on `n_threads` threads (0: one per physical core) with the best kernels this CPU runs,
/// or with the given ones.
std::unique_ptr<Backend> new_backend(size_t n_threads, const Kernels& kernels = best_kernels());

}  // namespace vga::cpu
