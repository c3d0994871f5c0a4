#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "compute/backend.h"

namespace vga::cpu {

/// Some queries and one page of one KV head's cache, which they share.
struct AttendPage {
  DType type;  // of the cache: f32, f16 or q8_0
  size_t head_dim;
  float scale;              // scores are q k^T * scale,
  float cap;                // bent to cap * tanh(score / cap) unless that is 0
  const std::byte* keys;    // a page, as write_key() wrote it
  const std::byte* values;  // a page, as write_value() wrote it
  const float* q;           // (n_queries, head_dim)
  size_t n_queries;         // at most attend_queries
  const uint32_t* begin;    // (n_queries) a query sees positions [begin, end) of the page
  const uint32_t* end;      // (n_queries) at least begin, at most page_positions

  // Results. A query that sees nothing gets -infinity, 0 and zeros.
  float* highest;  // (n_queries) the highest score
  float* total;    // (n_queries) sum of the weights, e^(score - highest)
  float* out;      // (n_queries, head_dim) values times weights
};

/// One token of one head of a delta net, see DeltaNet, for some columns of its state.
struct DeltaStep {
  const float* query;  // (dim) as it is used: of its length, divided by sqrt(dim)
  const float* key;    // (dim)
  const float* value;  // (n_cols)
  float decay;
  float strength;
  float* state;  // (dim, n_cols), dim apart
  size_t dim;
  size_t n_cols;
  float* out;  // (n_cols)
};

/// The arithmetic of the CPU backend for one instruction set. A table of plain functions so that
/// each set lives in its own source file, compiled with its own flags. The scalar table is the
/// reference: every other one is tested against it.
///
/// Every result depends only on its own inputs, never on how many rows are computed together, so
/// chunked prefill, decoding and any number of threads give bit-identical numbers.
struct Kernels {
  const char* name;

  /// Floats in a vector: project() wants its weights in panels for that many (see panels.h). 0: row
  /// by row, as the file has them.
  size_t lanes;

  /// Brings activations x (n_tokens, cols) into the form in which weights of `type` are multiplied
  /// by them. Plain types take them as they are. Quantized ones take each 32 columns as int8 with
  /// one scale: d = max|x| / 127, q = x / d rounded to the nearest even; all 0 if nothing is above
  /// smallest_activation. `out` holds prepared_size(n_tokens, cols) floats, of which this fills the
  /// part of tokens [begin, end). Parts begin at multiples of prepare_group.
  void (*prepare)(DType type, const float* x, size_t begin, size_t end, size_t cols, float* out);

  /// out[t * out_stride + r] = sum_c w(first_row + r, c) * x(t, c) for r < end_row - first_row, t <
  /// n_tokens; += if it `adds`. x was prepared for w.type. first_row is a multiple of lanes.
  void (*project)(const Tensor& w, size_t first_row, size_t end_row, const float* x,
                  size_t n_tokens, float* out, size_t out_stride, bool adds);

  /// out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i], i < n.
  void (*rms_norm)(const float* x, const float* weight, size_t n, float eps, float* out);

  /// out[i] = (x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i], i < n.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, size_t n, float eps,
                     float* out);

  /// Rotates the pairs of one head in place. cos_sin is (n_pairs, 2). Pair i is elements
  /// (i, i + n_pairs) when `half_split`, else (2i, 2i + 1).
  void (*rope)(float* head, const float* cos_sin, size_t n_pairs, bool half_split);

  /// Write the key or value (head_dim) of position `index` into a page of the cache, which begins
  /// as zeros and is CacheShape::page_bytes() long. How a page is laid out is the kernels' own
  /// affair.
  void (*write_key)(DType type, const float* key, size_t head_dim, std::byte* page, size_t index);
  void (*write_value)(DType type, const float* value, size_t head_dim, std::byte* page,
                      size_t index);
  /// `scratch` holds attend_scratch(head_dim) floats.
  void (*attend)(const AttendPage& page, float* scratch);

  /// x[i] = activation(x[i]), times up[i] if that is not null.
  void (*activate)(Activation kind, float* x, const float* up, size_t n);
  /// x[i] += y[i] * factor.
  void (*add)(float* x, const float* y, float factor, size_t n);
  /// x[i] *= scale, then bent to cap * tanh(x[i] / cap) unless cap is 0.
  void (*scale)(float* x, float scale, float cap, size_t n);

  /// x = silu of a causal convolution of n columns, for one token. `inputs` (n_taps - 1, stride)
  /// are those of the tokens before it, the oldest first; they move up, and x becomes the last of
  /// them. taps is (n_taps, n), its last row for x.
  void (*convolve)(float* x, float* inputs, size_t stride, const float* taps, size_t n_taps,
                   size_t n);
  void (*delta_step)(const DeltaStep& step);
};

/// 127 / x must be a float.
constexpr float smallest_activation = 1e-30f;
/// Tokens that may be prepared apart from others.
constexpr size_t prepare_group = 12;
/// Floats that the prepared form of a token takes at most.
constexpr size_t prepared_size(size_t n_tokens, size_t cols) {
  return n_tokens * ((cols + 31) / 32 * 32);
}
/// Threads share the rows of a projection in multiples of this, a multiple of all lanes.
constexpr size_t project_group = 16;

/// Queries that attend() takes at a time.
constexpr size_t attend_queries = 24;
constexpr size_t attend_scratch(size_t head_dim) {
  return 2 * attend_queries * page_positions + prepared_size(attend_queries, head_dim);
}

extern const Kernels scalar_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avxvnni_kernels;
extern const Kernels avx512_kernels;
#endif

/// All tables that this CPU (and its operating system) can run, the fastest first.
std::span<const Kernels* const> supported_kernels();
/// The fastest table this CPU runs, or the one that the environment variable VGA_CPU names
/// ("scalar", "avx2", "avxvnni", "avx512"). An Error if it names none or one that this CPU lacks.
const Kernels& best_kernels();

}  // namespace vga::cpu
