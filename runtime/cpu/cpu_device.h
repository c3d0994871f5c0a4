#pragma once

#include "compute/device.h"
#include "cpu/kernels.h"
#include "cpu/panels.h"

namespace vga::cpu {

/// The CPU as a place for layers: its fastest kernels, and the weights as those want them.
class CpuDevice : public Device {
 public:
  /// Arranges the weights of these layers on so many threads, 0 being one per physical core; they
  /// view memory of the device from then on, but for the last norm and the embeddings, of which a
  /// token wants one row. `done` hears of each band of a matrix that is not read again.
  CpuDevice(Weights& weights, const Config& config, const LayerRange& layers, size_t n_threads,
            const Panels::Done& done);

  std::unique_ptr<Backend> new_backend(size_t n_threads) const override;
  std::shared_ptr<const void> place(std::span<Tensor* const> matrices,
                                    std::span<Tensor* const> vectors) const override;
  bool on_host() const override { return true; }

 private:
  const Kernels& kernels_;
  std::optional<Panels> panels_;  // none if the kernels take weights as the file has them
};

}  // namespace vga::cpu
