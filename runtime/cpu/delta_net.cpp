#include "cpu/delta_net.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace vga::cpu {
namespace {

/// Columns that a thread takes at a time: as many keys of a state as these still are in the fastest
/// cache.
constexpr size_t block_cols = 64;

constexpr size_t n_blocks(size_t cols) {
  return (cols + block_cols - 1) / block_cols;
}

}  // namespace

const std::vector<DeltaNetOps::Run>& DeltaNetOps::runs() {
  if (!runs_.empty()) return runs_;
  for (size_t r = 0; r < rows_.size(); ++r) {
    const BatchRow& row = rows_[r];
    auto run = std::ranges::find(runs_, row.slot, &Run::slot);
    if (run == runs_.end()) {
      run = runs_.insert(run, {.slot = row.slot, .is_first = row.position == 0, .rows = {}});
    }
    run->rows.push_back(r);
  }
  return runs_;
}

void DeltaNetOps::convolve(float* x, const Tensor& taps, const CpuState& state, size_t layer) {
  const size_t cols = taps.rows;
  const size_t n_taps = taps.cols;
  const auto* by_column = reinterpret_cast<const float*>(taps.data);  // (cols, n_taps)
  const std::vector<Run>& all = runs();
  const size_t blocks = n_blocks(cols);
  threads_.run(
      all.size() * blocks, grain_for(block_cols * n_taps), [&](size_t begin, size_t end, size_t) {
        std::array<float, max_conv_size * block_cols> by_tap;  // (n_taps, n)
        for (size_t task = begin; task < end; ++task) {
          const Run& run = all[task / blocks];
          const size_t first = task % blocks * block_cols;
          const size_t n = std::min(block_cols, cols - first);
          for (size_t i = 0; i < n_taps * n; ++i) {
            by_tap[i] = by_column[(first + i % n) * n_taps + i / n];
          }
          float* inputs = state.inputs(run.slot, layer) + first;
          for (size_t tap = 0; run.is_first && tap + 1 < n_taps; ++tap) {
            std::fill_n(inputs + tap * cols, n, 0.f);
          }
          for (const size_t row : run.rows) {
            kernels_.convolve(x + row * cols + first, inputs, cols, by_tap.data(), n_taps, n);
          }
        }
      });
}

void DeltaNetOps::normalise(float* qkv, const DeltaNet& net) {
  const size_t dim = net.head_dim;
  const auto length = static_cast<float>(dim);
  // rms_norm() divides by sqrt(|x|^2 / dim + eps).
  const float eps = 1e-6f / length;
  const std::vector<float> for_query(dim, 1 / length);
  const std::vector<float> for_key(dim, 1 / std::sqrt(length));
  threads_.run(rows_.size(), grain_for(2 * net.key_size()), [&](size_t begin, size_t end, size_t) {
    for (size_t row = begin; row < end; ++row) {
      for (size_t head = 0; head < 2 * net.n_key_heads; ++head) {
        float* x = qkv + row * net.conv_cols() + head * dim;
        const bool is_query = head < net.n_key_heads;
        kernels_.rms_norm(x, is_query ? for_query.data() : for_key.data(), dim, eps, x);
      }
    }
  });
}

void DeltaNetOps::run(float* qkv, const float* decay, const float* strength, const CpuState& state,
                      size_t layer, float* out) {
  const DeltaNet& net = state.shape().net;
  normalise(qkv, net);
  const size_t dim = net.head_dim;
  const size_t heads = net.n_value_heads;
  const std::vector<Run>& all = runs();
  const size_t blocks = n_blocks(dim);
  threads_.run(
      all.size() * heads * blocks, grain_for(dim * block_cols * rows_.size() / all.size()),
      [&](size_t begin, size_t end, size_t) {
        for (size_t task = begin; task < end; ++task) {
          const Run& run = all[task / blocks / heads];
          const size_t head = task / blocks % heads;
          const size_t key_head = net.grouped ? head / (heads / net.n_key_heads)  //
                                              : head % net.n_key_heads;
          const size_t first = task % blocks * block_cols;
          const size_t n = std::min(block_cols, dim - first);
          float* memory = state.states(run.slot, layer) + head * dim * dim + first;
          for (size_t key = 0; run.is_first && key < dim; ++key) {
            std::fill_n(memory + key * dim, n, 0.f);
          }
          for (const size_t row : run.rows) {
            const float* x = qkv + row * net.conv_cols();
            kernels_.delta_step({.query = x + key_head * dim,
                                 .key = x + net.key_size() + key_head * dim,
                                 .value = x + 2 * net.key_size() + head * dim + first,
                                 .decay = decay[row * heads + head],
                                 .strength = strength[row * heads + head],
                                 .state = memory,
                                 .dim = dim,
                                 .n_cols = n,
                                 .out = out + row * net.value_size() + head * dim + first});
          }
        }
      });
}

}  // namespace vga::cpu
