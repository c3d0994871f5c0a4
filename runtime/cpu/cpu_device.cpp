#include "cpu/cpu_device.h"

#include <vector>

#include "cpu/cpu_backend.h"

namespace vga::cpu {

CpuDevice::CpuDevice(Weights& weights, const Config& config, const LayerRange& layers,
                     size_t n_threads, const Panels::Done& done)
    : kernels_(best_kernels()) {
  if (kernels_.lanes == 0) return;
  std::vector<Tensor*> matrices;
  std::vector<Tensor*> vectors;
  visit_layers(weights, config, layers, [&](const WeightSpec& spec, Tensor& tensor) {
    if (spec.layer != WeightSpec::no_layer) {
      (spec.is_matrix() ? matrices : vectors).push_back(&tensor);
    }
  });
  // A tied one has a copy of the embedding's rows.
  if (layers.end == config.n_layers()) matrices.push_back(&weights.output.weight);
  ThreadPool threads(n_threads == 0 ? default_threads() : n_threads);
  panels_.emplace(matrices, vectors, kernels_.lanes, threads, done);
}

std::shared_ptr<const void> CpuDevice::place(std::span<Tensor* const> matrices,
                                             std::span<Tensor* const> vectors) const {
  if (kernels_.lanes == 0) return nullptr;
  ThreadPool threads(1);  // they are small
  return std::make_shared<const Panels>(matrices, vectors, kernels_.lanes, threads, Panels::Done());
}

std::unique_ptr<Backend> CpuDevice::new_backend(size_t n_threads) const {
  return cpu::new_backend(n_threads, kernels_);
}

}  // namespace vga::cpu
