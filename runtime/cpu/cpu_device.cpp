#include "cpu/cpu_device.h"

#include "cpu/cpu_backend.h"

namespace vga::cpu {

CpuDevice::CpuDevice(Weights& weights, const Config& config, const LayerRange& layers,
                     size_t n_threads, const Panels::Done& done)
    : kernels_(best_kernels()) {
  if (kernels_.lanes == 0) return;
  ThreadPool threads(n_threads == 0 ? default_threads() : n_threads);
  panels_.emplace(weights, config, layers, kernels_.lanes, threads, done);
}

std::unique_ptr<Backend> CpuDevice::new_backend(size_t n_threads) const {
  return cpu::new_backend(n_threads, kernels_);
}

}  // namespace vga::cpu
