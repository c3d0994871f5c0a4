#pragma once

#include <functional>
#include <memory>
#include <string>

#include "compute/backend.h"
#include "model/weights.h"

namespace vga {

/// Layers [first, end) of a model. With the first one go the embeddings, with the last one all that
/// follows it.
struct LayerRange {
  size_t first;
  size_t end;

  size_t size() const { return end - first; }
};

/// A part of a model's weights where something computes with them: the CPU or a GPU. It is shared
/// by all sessions of the model and outlives them.
class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  /// What one session computes with. `n_threads` is for those that the host does the work of; 0 is
  /// one per physical core.
  virtual std::unique_ptr<Backend> new_backend(size_t n_threads) const = 0;
  /// Takes weights that come later, those of an adapter, which may view memory of the result then;
  /// that does not outlive the device, nor the memory that they view now.
  virtual std::shared_ptr<const void> place(std::span<Tensor* const> matrices,
                                            std::span<Tensor* const> vectors) const = 0;
  /// Whether what a session needs of it is taken from the process's own memory.
  virtual bool on_host() const = 0;
};

/// The tensors of a range of layers: visit(spec, tensor). Those of a tied output are the
/// embedding's and not visited.
void visit_layers(Weights& weights, const Config& config, const LayerRange& layers,
                  const std::function<void(const WeightSpec&, Tensor&)>& visit);

/// Floats from a row of activations to the next on a device that wants them aligned.
constexpr size_t padded_cols(size_t cols) {
  return (cols + 7) / 8 * 8;
}

}  // namespace vga
