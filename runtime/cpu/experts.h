#pragma once

#include <array>
#include <span>
#include <vector>

#include "compute/backend.h"
#include "cpu/kernels.h"
#include "cpu/threads.h"

namespace vga::cpu {

/// The ops of mixtures of experts. Rows that chose the same expert are multiplied together, so its
/// weights are read once for all of them.
class ExpertOps {
 public:
  ExpertOps(const Kernels& kernels, ThreadPool& threads) : kernels_(kernels), threads_(threads) {}

  /// One row: n logits to `out` (2 * n_used). `bias` is (n) or null.
  static void route(const float* logits, const float* bias, const Experts& experts, float* out);

  /// Activations of some rows, `stride` floats apart.
  struct Rows {
    const float* data;
    size_t n;
    size_t stride;
  };
  struct Product {
    const Tensor& weight;
    float* out;  // (rows, n_used, outputs)
    size_t outputs;
  };
  /// x is (rows, inputs), or (rows, n_used * inputs); routed is (rows, 2 * n_used).
  void project(const Rows& x, const Rows& routed, size_t inputs, std::span<const Product> products);

 private:
  /// A row that an expert was chosen for, as the row's `index`-th.
  struct Pair {
    size_t row;
    size_t index;
  };
  /// The pairs of one expert, which follow each other.
  struct Group {
    size_t expert;
    size_t first;
    size_t n;
  };

  /// Activations of all pairs in the form in which plain, or quantized, weights take them, group by
  /// group.
  struct Prepared {
    std::vector<float> x;
    bool valid = false;  // for the project() in progress
  };

  Prepared& prepared(DType type) { return prepared_[is_plain(type) ? 0 : 1]; }
  void group_pairs(const Rows& routed);
  void prepare(const Rows& x, size_t inputs, DType type);

  const Kernels& kernels_;
  ThreadPool& threads_;
  std::vector<Pair> pairs_;    // by expert
  std::vector<Group> groups_;  // of experts that were chosen
  std::vector<float> x_;       // (pairs, inputs)
  std::array<Prepared, 2> prepared_;
  std::vector<float> products_;  // (products, pairs, outputs)
};

}  // namespace vga::cpu
