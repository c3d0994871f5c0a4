#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "cpu/kernels.h"
#include "gguf/decode.h"
#include "gguf/encode.h"

namespace vga::cpu {
namespace {

double dot(const float* a, const float* b, size_t n, double sum = 0) {
  for (size_t i = 0; i < n; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

float sigmoid_of(float x) {
  return 1 / (1 + std::exp(-x));
}

/// Rounds 32 activations to int8, see Kernels::prepare.
void round_to_int8(const float* x, float* out) {
  float max = 0;
  for (size_t i = 0; i < 32 && !std::isnan(max); ++i) {
    if (!(std::fabs(x[i]) <= max)) max = std::fabs(x[i]);  // also if it is NaN
  }
  const float d = max / 127;
  const float inverse = max > smallest_activation ? 1 / d : 0;
  for (size_t i = 0; i < 32; ++i) out[i] = d * std::nearbyint(x[i] * inverse);
}

void prepare(DType type, const float* x, size_t begin, size_t end, size_t cols, float* out) {
  if (is_plain(type)) {
    std::copy_n(x + begin * cols, (end - begin) * cols, out + begin * cols);
    return;
  }
  for (size_t i = begin * cols; i < end * cols; i += 32) round_to_int8(x + i, out + i);
}

void project(const Tensor& w, size_t first_row, size_t end_row, const float* x, size_t n_tokens,
             float* out, size_t out_stride, bool adds) {
  // A piece of a row at a time, for some tokens: this must not allocate.
  constexpr size_t piece = 256;  // whole blocks of any type
  constexpr size_t group = 16;
  for (size_t r = first_row; r < end_row; ++r) {
    for (size_t first = 0; first < n_tokens; first += group) {
      const size_t n = std::min(group, n_tokens - first);
      double sums[group] = {};
      for (size_t c = 0; c < w.cols; c += piece) {
        float row[piece];
        const size_t n_cols = std::min(piece, w.cols - c);
        decode_row(w.type, w.row(r) + row_bytes(w.type, c), {row, n_cols});
        for (size_t t = 0; t < n; ++t) {
          sums[t] = dot(row, x + (first + t) * w.cols + c, n_cols, sums[t]);
        }
      }
      for (size_t t = 0; t < n; ++t) {
        float& y = out[(first + t) * out_stride + r - first_row];
        y = static_cast<float>(sums[t]) + (adds ? y : 0);
      }
    }
  }
}

void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
  const double mean = dot(x, x, n) / static_cast<double>(n);
  const auto factor = static_cast<float>(1 / std::sqrt(mean + double{eps}));
  for (size_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, size_t n, float eps,
                float* out) {
  const auto count = static_cast<double>(n);
  double mean = 0;
  for (size_t i = 0; i < n; ++i) mean += double{x[i]} / count;
  double variance = 0;
  for (size_t i = 0; i < n; ++i) variance += std::pow(double{x[i]} - mean, 2) / count;
  const double factor = 1 / std::sqrt(variance + double{eps});
  for (size_t i = 0; i < n; ++i) {
    const auto normal = static_cast<float>((double{x[i]} - mean) * factor);
    out[i] = normal * weight[i] + bias[i];
  }
}

float capped(float x, float cap) {
  return cap == 0 ? x : cap * std::tanh(x / cap);
}

void rope(float* head, const float* cos_sin, size_t n_pairs, bool half_split) {
  for (size_t i = 0; i < n_pairs; ++i) {
    float& first = head[half_split ? i : 2 * i];
    float& second = head[half_split ? i + n_pairs : 2 * i + 1];
    const float a = first;
    const float b = second;
    const float cos = cos_sin[2 * i];
    const float sin = cos_sin[2 * i + 1];
    first = a * cos - b * sin;
    second = b * cos + a * sin;
  }
}

/// Bytes from one position to the next in a page: rows as encode_row() writes them.
size_t cache_row_bytes(DType type, size_t head_dim) {
  return row_bytes(type, (head_dim + 15) / 16 * 16);
}

void write_cached(DType type, const float* x, size_t head_dim, std::byte* page, size_t index) {
  encode_row(type, {x, head_dim}, page + index * cache_row_bytes(type, head_dim));
}

void attend(const AttendPage& s, float* scratch) {
  const size_t stride = cache_row_bytes(s.type, s.head_dim);
  float* weights = scratch;                   // (page_positions)
  float* decoded = scratch + page_positions;  // (head_dim)
  for (size_t i = 0; i < s.n_queries; ++i) {
    float highest = -std::numeric_limits<float>::infinity();
    for (size_t p = s.begin[i]; p < s.end[i]; ++p) {
      decode_row(s.type, s.keys + p * stride, {decoded, s.head_dim});
      const auto product = static_cast<float>(dot(s.q + i * s.head_dim, decoded, s.head_dim));
      weights[p] = capped(product * s.scale, s.cap);
      highest = std::max(highest, weights[p]);
    }
    float total = 0;
    float* out = s.out + i * s.head_dim;
    std::fill_n(out, s.head_dim, 0.f);
    for (size_t p = s.begin[i]; p < s.end[i]; ++p) {
      const float weight = std::exp(weights[p] - highest);
      decode_row(s.type, s.values + p * stride, {decoded, s.head_dim});
      for (size_t j = 0; j < s.head_dim; ++j) out[j] += weight * decoded[j];
      total += weight;
    }
    s.highest[i] = highest;
    s.total[i] = total;
  }
}

float activation(Activation kind, float x) {
  const double wide = double{x};
  switch (kind) {
    case Activation::silu:
      return x * sigmoid_of(x);
    case Activation::gelu_tanh: {
      const double inner = wide + 0.044715 * wide * wide * wide;
      return static_cast<float>(0.5 * wide *
                                (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * inner)));
    }
    case Activation::gelu:
      return static_cast<float>(0.5 * wide * std::erfc(-wide / std::numbers::sqrt2));
    case Activation::relu:
      return x > 0 ? x : 0 * x;  // NaN stays
    case Activation::sigmoid:
      return sigmoid_of(x);
  }
  return x;
}

void activate(Activation kind, float* x, const float* up, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    x[i] = activation(kind, x[i]);
    if (up != nullptr) x[i] *= up[i];
  }
}

void add(float* x, const float* y, float factor, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] += y[i] * factor;
}

void convolve(float* x, float* inputs, size_t stride, const float* taps, size_t n_taps, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    float sum = 0;
    for (size_t tap = 0; tap + 1 < n_taps; ++tap) {
      float& input = inputs[tap * stride + i];
      sum += input * taps[tap * n + i];
      input = tap + 2 < n_taps ? inputs[(tap + 1) * stride + i] : x[i];
    }
    sum += x[i] * taps[(n_taps - 1) * n + i];
    x[i] = activation(Activation::silu, sum);
  }
}

void delta_step(const DeltaStep& s) {
  for (size_t j = 0; j < s.n_cols; ++j) {
    float* column = s.state + j;  // strides by dim
    float found = 0;
    for (size_t i = 0; i < s.dim; ++i) found += column[i * s.dim] * s.key[i];
    const float change = s.strength * (s.value[j] - s.decay * found);
    float read = 0;
    for (size_t i = 0; i < s.dim; ++i) {
      column[i * s.dim] = s.decay * column[i * s.dim] + s.key[i] * change;
      read += column[i * s.dim] * s.query[i];
    }
    s.out[j] = read;
  }
}

void scale(float* x, float scale, float cap, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] = capped(x[i] * scale, cap);
}

}  // namespace

const Kernels scalar_kernels = {.name = "scalar",
                                .lanes = 0,
                                .prepare = prepare,
                                .project = project,
                                .rms_norm = rms_norm,
                                .layer_norm = layer_norm,
                                .rope = rope,
                                .write_key = write_cached,
                                .write_value = write_cached,
                                .attend = attend,
                                .activate = activate,
                                .add = add,
                                .scale = scale,
                                .convolve = convolve,
                                .delta_step = delta_step};

}  // namespace vga::cpu
