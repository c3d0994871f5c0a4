#pragma once

#include <span>
#include <vector>

#include "compute/backend.h"
#include "cpu/kernels.h"
#include "cpu/large_memory.h"
#include "cpu/threads.h"

namespace vga::cpu {

/// States in host memory: (n_slots, n_layers) times what StateShape lists.
class CpuState : public State {
 public:
  explicit CpuState(const StateShape& shape) : State(shape), memory_(large_memory(shape.bytes())) {}

  float* slot(size_t slot) const { return layer(slot, 0); }
  /// (conv_size - 1, conv_cols)
  float* inputs(size_t slot, size_t of) const { return layer(slot, of); }
  /// (n_value_heads, head_dim, head_dim)
  float* states(size_t slot, size_t of) const { return layer(slot, of) + shape().n_inputs(); }

 private:
  float* layer(size_t slot, size_t layer) const {
    auto* floats = reinterpret_cast<float*>(memory_.get());
    return floats + (slot * shape().n_layers + layer) * shape().n_floats();
  }

  LargeMemory memory_;
};

/// The ops of delta nets. Columns do not meet in them, so they are what threads share out, and each
/// walks through the tokens of a sequence in order.
class DeltaNetOps {
 public:
  DeltaNetOps(const Kernels& kernels, ThreadPool& threads) : kernels_(kernels), threads_(threads) {}

  void begin(const Batch& batch) {
    rows_ = batch.rows;
    runs_.clear();
  }
  /// x is (rows, conv_cols).
  void convolve(float* x, const Tensor& taps, const CpuState& state, size_t layer);
  /// qkv is (rows, conv_cols), decay and strength are (rows, n_value_heads), out is (rows,
  /// value_size).
  void run(float* qkv, const float* decay, const float* strength, const CpuState& state,
           size_t layer, float* out);

 private:
  /// The rows of one sequence.
  struct Run {
    uint32_t slot;
    bool is_first;  // of the sequence: nothing is remembered yet
    std::vector<size_t> rows;
  };

  /// Of the batch; planned when the first op asks, as most models have no delta nets.
  const std::vector<Run>& runs();
  /// Brings queries and keys to their lengths.
  void normalise(float* qkv, const DeltaNet& net);

  const Kernels& kernels_;
  ThreadPool& threads_;
  std::span<const BatchRow> rows_;
  std::vector<Run> runs_;
};

}  // namespace vga::cpu
