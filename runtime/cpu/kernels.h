#pragma once

#include <cstddef>
#include <cstdint>

#include "../dtype.h"

namespace vga::cpu {

/// One query position's view of one KV head in the cache: keys and values of `n` consecutive
/// positions, each head_dim elements of `type` (f32 or f16), rows `head_dim` apart.
struct CachedHead {
  DType type;
  const std::byte* keys;    // (n, head_dim)
  const std::byte* values;  // (n, head_dim)
  size_t n;
};

/// The arithmetic of the CPU backend for one instruction set. A table of plain functions so that
/// each set lives in its own source file, compiled with its own flags. The scalar table is the
/// reference: every other one is tested against it.
///
/// Every result depends only on its own inputs, never on how many rows are computed together, so
/// chunked prefill, decoding and any number of threads give bit-identical numbers.
struct Kernels {
  const char* name;

  /// out[t * out_stride + r] = sum_c w(r, c) * x[t * cols + c] for r < n_rows, t < n_tokens.
  /// `w` points at n_rows consecutive encoded rows of `cols` elements of `type`; x is
  /// (n_tokens, cols). `scratch` holds project_scratch(cols) floats. No alignment is assumed.
  void (*project)(DType type, const std::byte* w, size_t n_rows, size_t cols, const float* x,
                  size_t n_tokens, float* out, size_t out_stride, float* scratch);

  /// out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i], i < n.
  void (*rms_norm)(const float* x, const float* weight, size_t n, float eps, float* out);

  /// Rotates the pairs of one head in place. cos_sin is (n_pairs, 2). Pair i is elements
  /// (i, i + n_pairs) when `half_split`, else (2i, 2i + 1).
  void (*rope)(float* head, const float* cos_sin, size_t n_pairs, bool half_split);

  /// For each of n_heads queries q (n_heads, head_dim) that share one KV head:
  /// out (n_heads, head_dim) = softmax(q k^T * scale) v in one pass with an online softmax.
  /// `scratch` holds attend_scratch(n_heads, head_dim) floats.
  void (*attend)(const float* q, size_t n_heads, size_t head_dim, float scale,
                 const CachedHead& cache, float* out, float* scratch);

  /// gate[i] = gate[i] * sigmoid(gate[i]) * up[i].
  void (*swiglu)(float* gate, const float* up, size_t n);
  /// x[i] = 1 / (1 + exp(-x[i])).
  void (*sigmoid)(float* x, size_t n);
  /// x[i] += y[i].
  void (*add)(float* x, const float* y, size_t n);
  /// x[i] *= factor.
  void (*scale)(float* x, float factor, size_t n);
  /// Converts n floats to f16, rounding to nearest even.
  void (*to_f16)(const float* x, size_t n, uint16_t* out);
};

/// Rows that project() works on together: ranges that are multiples of it waste nothing.
constexpr size_t project_group = 8;
/// What project() wants as scratch: one decoded row, or a decoded panel of weights with its sums.
constexpr size_t project_panel = 8 * 512 + 8 * 8 * 48 + 16;
constexpr size_t project_scratch(size_t cols) {
  return cols > project_panel ? cols : project_panel;
}

/// Positions of the cache that attention scores before it folds them into the softmax.
constexpr size_t attend_block = 64;
constexpr size_t attend_scratch(size_t n_heads, size_t head_dim) {
  return n_heads * (attend_block + 3) + project_scratch(head_dim);
}

extern const Kernels scalar_kernels;
extern const Kernels avx2_kernels;

/// Whether this CPU (and its operating system) can run AVX2, FMA and F16C.
bool has_avx2();
/// The fastest table this CPU runs, or the one that the environment variable VGA_CPU names
/// ("scalar", "avx2"). An Error if it names none or one that this CPU lacks.
const Kernels& best_kernels();

}  // namespace vga::cpu
