#include <cmath>
#include <limits>

#include "kernels.h"

namespace vga::cpu {
namespace {

double dot(const float* a, const float* b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

float sigmoid_of(float x) {
  return 1 / (1 + std::exp(-x));
}

void project(DType type, const std::byte* w, size_t n_rows, size_t cols, const float* x,
             size_t n_tokens, float* out, size_t out_stride, float* scratch) {
  for (size_t r = 0; r < n_rows; ++r) {
    decode_row(type, w + r * row_bytes(type, cols), {scratch, cols});
    for (size_t t = 0; t < n_tokens; ++t) {
      out[t * out_stride + r] = static_cast<float>(dot(scratch, x + t * cols, cols));
    }
  }
}

void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
  const double mean = dot(x, x, n) / static_cast<double>(n);
  const auto factor = static_cast<float>(1 / std::sqrt(mean + double{eps}));
  for (size_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
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

void attend(const float* q, size_t n_heads, size_t head_dim, float scale, const CachedHead& cache,
            float* out, float* scratch) {
  const size_t stride = row_bytes(cache.type, head_dim);
  for (size_t h = 0; h < n_heads; ++h, q += head_dim, out += head_dim) {
    float max = -std::numeric_limits<float>::infinity();
    float total = 0;
    for (size_t i = 0; i < head_dim; ++i) out[i] = 0;
    for (size_t p = 0; p < cache.n; ++p) {
      decode_row(cache.type, cache.keys + p * stride, {scratch, head_dim});
      const float score = static_cast<float>(dot(q, scratch, head_dim)) * scale;
      if (score > max) {  // what was summed so far was relative to the old maximum
        const float correction = std::exp(max - score);
        for (size_t i = 0; i < head_dim; ++i) out[i] *= correction;
        total *= correction;
        max = score;
      }
      const float weight = std::exp(score - max);
      decode_row(cache.type, cache.values + p * stride, {scratch, head_dim});
      for (size_t i = 0; i < head_dim; ++i) out[i] += weight * scratch[i];
      total += weight;
    }
    for (size_t i = 0; i < head_dim; ++i) out[i] /= total;
  }
}

void swiglu(float* gate, const float* up, size_t n) {
  for (size_t i = 0; i < n; ++i) gate[i] *= sigmoid_of(gate[i]) * up[i];
}

void sigmoid(float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] = sigmoid_of(x[i]);
}

void add(float* x, const float* y, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] += y[i];
}

void scale(float* x, float factor, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] *= factor;
}

void to_f16(const float* x, size_t n, uint16_t* out) {
  for (size_t i = 0; i < n; ++i) out[i] = f16_from_f32(x[i]);
}

}  // namespace

const Kernels scalar_kernels = {"scalar", project, rms_norm, rope,  attend,
                                swiglu,   sigmoid, add,      scale, to_f16};

}  // namespace vga::cpu
