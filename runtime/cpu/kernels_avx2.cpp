// Compiled with -mavx2 -mfma -mf16c. Everything here has internal linkage and nothing inline from a
// header shared with other files is called: the linker keeps one copy of such a function, and if
// that were ours, CPUs without AVX2 would crash in code that never asked for it.

#include <cstring>

#include <immintrin.h>

#include "../blocks.h"
#include "kernels.h"

namespace vga::cpu {
namespace {

// -- Loading and storing eight floats at a time ---------------------------------------------------

constexpr size_t lanes = 8;

/// How weights are stored: load() decodes `block` elements, `bytes` long.
struct F32 {
  static constexpr size_t block = lanes;
  static constexpr size_t bytes = 32;
  static void load(const std::byte* from, __m256 (&out)[1]) {
    out[0] = _mm256_loadu_ps(reinterpret_cast<const float*>(from));
  }
};

struct F16 {
  static constexpr size_t block = lanes;
  static constexpr size_t bytes = 16;
  static void load(const std::byte* from, __m256 (&out)[1]) {
    out[0] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
};

struct BF16 {
  static constexpr size_t block = lanes;
  static constexpr size_t bytes = 16;
  static void load(const std::byte* from, __m256 (&out)[1]) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    out[0] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
};

struct Q8_0 {
  static constexpr size_t block = 32;
  static constexpr size_t bytes = sizeof(BlockQ8_0);
  static void load(const std::byte* from, __m256 (&out)[4]) {
    uint16_t half;
    std::memcpy(&half, from, sizeof half);
    const __m256 d = _mm256_set1_ps(_cvtsh_ss(half));
    for (size_t i = 0; i < 4; ++i) {
      const auto* q = reinterpret_cast<const __m128i*>(from + sizeof half + i * lanes);
      out[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(q))), d);
    }
  }
};

/// The first `n` < 8 elements, then zeros.
template <class W>
__m256 load_part(const std::byte* from, size_t n) {
  static_assert(W::block == lanes);
  std::byte padded[W::bytes] = {};
  std::memcpy(padded, from, n * (W::bytes / lanes));
  __m256 out[1];
  W::load(padded, out);
  return out[0];
}

__m256 load_part(const float* from, size_t n) {
  return load_part<F32>(reinterpret_cast<const std::byte*>(from), n);
}

void store_part(float* to, size_t n, __m256 x) {
  float all[lanes];
  _mm256_storeu_ps(all, x);
  std::memcpy(to, all, n * sizeof(float));
}

/// x[i] = f(x[i]) and the like: calls f(i, load, store) for whole vectors, then for the rest.
template <class Function>
void for_each_vector(size_t n, Function&& f) {
  size_t i = 0;
  const auto load = [&](const float* from) { return _mm256_loadu_ps(from + i); };
  const auto store = [&](float* to, __m256 x) { _mm256_storeu_ps(to + i, x); };
  for (; i + lanes <= n; i += lanes) f(load, store);
  if (i == n) return;
  f([&](const float* from) { return load_part(from + i, n - i); },
    [&](float* to, __m256 x) { store_part(to + i, n - i, x); });
}

/// The sums of four vectors, each added in the same order.
__m128 sum_lanes(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

size_t smaller(size_t a, size_t b) {
  return a < b ? a : b;
}

// -- Projections ----------------------------------------------------------------------------------
//
// Whatever the shape, one result is summed in one way: eight lanes, each over every eighth column
// in ascending order, then sum_lanes(). So it does not matter which of the paths below computes it,
// nor what else it computes. A weight is the same float in all of them (d * q is exact in q8_0).

/// Adds w[r][k] * x[t][k], k < n, to sums[t][r]. `ahead` is how many bytes after these rows those
/// begin that are wanted next.
template <class W, size_t rows, size_t tokens>
[[gnu::always_inline]] inline void multiply(const std::byte* const (&w)[rows], const float* x,
                                            size_t x_stride, size_t n, size_t ahead,
                                            __m256 (&sums)[tokens][rows]) {
  // A copy, because stores to `sums` could change x for all that the compiler knows.
  __m256 local[tokens][rows];
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t r = 0; r < rows; ++r) local[t][r] = sums[t][r];
  }
  constexpr size_t vectors = W::block / lanes;
  size_t k = 0;
  size_t at = 0;  // bytes into a row of w
  for (; k + W::block <= n; k += W::block, at += W::bytes) {
    __m256 xs[tokens][vectors];
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t v = 0; v < vectors; ++v) {
        xs[t][v] = _mm256_loadu_ps(x + t * x_stride + k + v * lanes);
      }
    }
    for (size_t r = 0; r < rows; ++r) {
      // The processor foresees rows of plain numbers, but not these blocks of 34 bytes.
      if constexpr (W::block > lanes) _mm_prefetch(w[r] + at + ahead, _MM_HINT_T0);
      __m256 ws[vectors];
      W::load(w[r] + at, ws);
      for (size_t t = 0; t < tokens; ++t) {
        for (size_t v = 0; v < vectors; ++v) {
          local[t][r] = _mm256_fmadd_ps(ws[v], xs[t][v], local[t][r]);
        }
      }
    }
  }
  if constexpr (W::block == lanes) {
    for (size_t r = 0; r < rows && k < n; ++r) {
      const __m256 weights = load_part<W>(w[r] + at, n - k);
      for (size_t t = 0; t < tokens; ++t) {
        const __m256 xs = load_part(x + t * x_stride + k, n - k);
        local[t][r] = _mm256_fmadd_ps(weights, xs, local[t][r]);
      }
    }
  }
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t r = 0; r < rows; ++r) sums[t][r] = local[t][r];
  }
}

/// Four results of one token, of which `n` are stored.
void store_sums(const __m256* sums, size_t n, float* out) {
  const __m128 four = sum_lanes(sums[0], sums[1], sums[2], sums[3]);
  if (n >= 4) {
    _mm_storeu_ps(out, four);
  } else {
    float all[4];
    _mm_storeu_ps(all, four);
    std::memcpy(out, all, n * sizeof(float));
  }
}

struct Projection {
  const std::byte* w;  // (n_rows, cols)
  size_t n_rows;
  size_t cols;
  const float* x;  // (n_tokens, cols)
  size_t n_tokens;
  float* out;  // (n_tokens, n_rows), rows out_stride apart
  size_t out_stride;
};

/// Bytes of `n` elements, whole blocks unless the last of a row.
template <class W>
constexpr size_t encoded_bytes(size_t n) {
  return n * W::bytes / W::block;
}

/// For few tokens: reading the weights is the work, and they are decoded in registers.
template <class W, size_t tokens>
void project_rows(const Projection& p, const std::byte* const (&w)[4], size_t r, size_t t) {
  __m256 sums[tokens][4] = {};
  multiply<W>(w, p.x + t * p.cols, p.cols, p.cols, 4 * encoded_bytes<W>(p.cols), sums);
  for (size_t i = 0; i < tokens; ++i) {
    store_sums(sums[i], p.n_rows - r, p.out + (t + i) * p.out_stride + r);
  }
}

template <class W>
void project_few(const Projection& p) {
  for (size_t r = 0; r < p.n_rows; r += 4) {
    const std::byte* w[4];  // past the end, the last row again
    for (size_t i = 0; i < 4; ++i) {
      w[i] = p.w + smaller(r + i, p.n_rows - 1) * encoded_bytes<W>(p.cols);
    }
    size_t t = 0;
    for (; t + 3 <= p.n_tokens; t += 3) project_rows<W, 3>(p, w, r, t);
    if (p.n_tokens - t == 2) project_rows<W, 2>(p, w, r, t);
    if (p.n_tokens - t == 1) project_rows<W, 1>(p, w, r, t);
  }
}

// For many tokens: panel_rows x panel_cols weights are decoded once (16 KiB: they stay in L1), then
// multiplied with token_block tokens, whose activations stay in L2. The sums wait in memory while
// the other columns of the panel's rows are decoded.
constexpr size_t few_tokens = 8;
constexpr size_t panel_rows = 8;
constexpr size_t panel_cols = 512;
constexpr size_t token_block = 48;
static_assert(panel_rows * (panel_cols + token_block * lanes) + 16 == project_panel);

template <class W>
void decode(const std::byte* from, size_t n, float* to) {
  size_t i = 0;
  for (; i + W::block <= n; i += W::block) {
    __m256 out[W::block / lanes];
    W::load(from + encoded_bytes<W>(i), out);
    for (size_t v = 0; v < W::block / lanes; ++v) _mm256_storeu_ps(to + i + v * lanes, out[v]);
  }
  if constexpr (W::block == lanes) {
    if (i < n) store_part(to + i, n - i, load_part<W>(from + encoded_bytes<W>(i), n - i));
  }
}

/// Multiplies four rows of a panel with `tokens` tokens; sums is (tokens, panel_rows, lanes).
template <size_t tokens>
void multiply_panel(const float* panel, const float* x, size_t x_stride, size_t n, float* sums) {
  const std::byte* w[4];
  for (size_t r = 0; r < 4; ++r) {
    w[r] = reinterpret_cast<const std::byte*>(panel + r * panel_cols);
  }
  __m256 local[tokens][4];
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t r = 0; r < 4; ++r) {
      local[t][r] = _mm256_load_ps(sums + (t * panel_rows + r) * lanes);
    }
  }
  multiply<F32>(w, x, x_stride, n, 0, local);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t r = 0; r < 4; ++r) {
      _mm256_store_ps(sums + (t * panel_rows + r) * lanes, local[t][r]);
    }
  }
}

/// out (n_tokens <= token_block, n_rows <= panel_rows).
template <class W>
void project_panel_of(const Projection& p, float* panel, float* sums) {
  std::memset(sums, 0, p.n_tokens * panel_rows * lanes * sizeof(float));
  for (size_t k = 0; k < p.cols; k += panel_cols) {
    const size_t n = smaller(panel_cols, p.cols - k);
    for (size_t r = 0; r < p.n_rows; ++r) {
      decode<W>(p.w + r * encoded_bytes<W>(p.cols) + encoded_bytes<W>(k), n,
                panel + r * panel_cols);
    }
    const float* x = p.x + k;
    for (size_t t = 0; t < p.n_tokens;) {
      const size_t tokens = smaller(3, p.n_tokens - t);
      const auto multiply_rows = tokens == 3   ? multiply_panel<3>
                                 : tokens == 2 ? multiply_panel<2>
                                               : multiply_panel<1>;
      for (size_t r = 0; r < p.n_rows; r += 4) {
        multiply_rows(panel + r * panel_cols, x + t * p.cols, p.cols, n,
                      sums + (t * panel_rows + r) * lanes);
      }
      t += tokens;
    }
  }
  for (size_t t = 0; t < p.n_tokens; ++t) {
    for (size_t r = 0; r < p.n_rows; r += 4) {
      __m256 four[4];
      for (size_t i = 0; i < 4; ++i) {
        four[i] = _mm256_load_ps(sums + (t * panel_rows + r + i) * lanes);
      }
      store_sums(four, p.n_rows - r, p.out + t * p.out_stride + r);
    }
  }
}

template <class W>
void project_many(const Projection& p, float* scratch) {
  scratch += (64 - reinterpret_cast<uintptr_t>(scratch) % 64) % 64 / sizeof(float);
  float* sums = scratch + panel_rows * panel_cols;
  for (size_t t = 0; t < p.n_tokens; t += token_block) {
    for (size_t r = 0; r < p.n_rows; r += panel_rows) {
      Projection part = p;
      part.w += r * encoded_bytes<W>(p.cols);
      part.n_rows = smaller(panel_rows, p.n_rows - r);
      part.x += t * p.cols;
      part.n_tokens = smaller(token_block, p.n_tokens - t);
      part.out += t * p.out_stride + r;
      project_panel_of<W>(part, scratch, sums);
    }
  }
}

template <class W>
void project_with(const Projection& p, float* scratch) {
  if (p.n_tokens <= few_tokens) {
    project_few<W>(p);
  } else {
    project_many<W>(p, scratch);
  }
}

void project(DType type, const std::byte* w, size_t n_rows, size_t cols, const float* x,
             size_t n_tokens, float* out, size_t out_stride, float* scratch) {
  const Projection p{w, n_rows, cols, x, n_tokens, out, out_stride};
  switch (type) {
    case DType::f32:
      return project_with<F32>(p, scratch);
    case DType::f16:
      return project_with<F16>(p, scratch);
    case DType::bf16:
      return project_with<BF16>(p, scratch);
    case DType::q8_0:
      return project_with<Q8_0>(p, scratch);
    default:
      return scalar_kernels.project(type, w, n_rows, cols, x, n_tokens, out, out_stride, scratch);
  }
}

// -- Attention ------------------------------------------------------------------------------------

/// e^x within 2 ulp: 0 below -104, infinity above 89, NaN for NaN.
__m256 exp(__m256 x) {
  // min and max return their second operand when either is NaN.
  x = _mm256_max_ps(_mm256_set1_ps(-104), _mm256_min_ps(_mm256_set1_ps(89), x));
  // e^x = 2^n e^r, |r| <= ln(2) / 2; ln(2) in two parts keeps r exact.
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  // The minimax polynomial of Cephes' expf.
  constexpr float coefficients[] = {1.3981999507e-3f,
                                    8.3334519073e-3f,
                                    4.1665795894e-2f,
                                    1.6666665459e-1f,
                                    5.0000001201e-1f,
                                    1,
                                    1};
  __m256 y = _mm256_set1_ps(1.9875691500e-4f);
  for (const float c : coefficients) y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(c));
  // 2^n in two factors, since n reaches from -150 to 128.
  const __m256i power = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(power, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const auto factor = [&](__m256i e) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, bias), 23));
  };
  return _mm256_mul_ps(_mm256_mul_ps(y, factor(half)), factor(_mm256_sub_epi32(power, half)));
}

// Until the fast ones are here.
void write_key(DType type, const float* key, size_t head_dim, std::byte* span, size_t index) {
  scalar_kernels.write_key(type, key, head_dim, span, index);
}
void write_value(DType type, const float* value, size_t head_dim, std::byte* span, size_t index) {
  scalar_kernels.write_value(type, value, head_dim, span, index);
}
void attend(const AttendSpan& span, float* scratch) {
  scalar_kernels.attend(span, scratch);
}

// -- Element by element ---------------------------------------------------------------------------

__m256 sigmoid_of(__m256 x) {
  const __m256 one = _mm256_set1_ps(1);
  return _mm256_div_ps(one, _mm256_add_ps(one, exp(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

void swiglu(float* gate, const float* up, size_t n) {
  for_each_vector(n, [&](auto load, auto store) {
    const __m256 g = load(gate);
    store(gate, _mm256_mul_ps(_mm256_mul_ps(g, sigmoid_of(g)), load(up)));
  });
}

void sigmoid(float* x, size_t n) {
  for_each_vector(n, [&](auto load, auto store) { store(x, sigmoid_of(load(x))); });
}

void add(float* x, const float* y, size_t n) {
  for_each_vector(n, [&](auto load, auto store) { store(x, _mm256_add_ps(load(x), load(y))); });
}

void scale(float* x, float factor, size_t n) {
  const __m256 factors = _mm256_set1_ps(factor);
  for_each_vector(n, [&](auto load, auto store) { store(x, _mm256_mul_ps(load(x), factors)); });
}

void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
  // In double, so that no x that is a float is too large to square.
  __m256d low = _mm256_setzero_pd();
  __m256d high = _mm256_setzero_pd();
  for_each_vector(n, [&](auto load, auto) {
    const __m256 xs = load(x);
    const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(xs));
    const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(xs, 1));
    low = _mm256_fmadd_pd(a, a, low);
    high = _mm256_fmadd_pd(b, b, high);
  });
  double sums[4];
  _mm256_storeu_pd(sums, _mm256_add_pd(low, high));
  const double mean = (sums[0] + sums[1] + sums[2] + sums[3]) / static_cast<double>(n);
  const __m128d root = _mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(mean + double{eps}));
  const __m256 factor = _mm256_set1_ps(static_cast<float>(1 / _mm_cvtsd_f64(root)));
  for_each_vector(n, [&](auto load, auto store) {
    store(out, _mm256_mul_ps(_mm256_mul_ps(load(x), factor), load(weight)));
  });
}

void rope(float* head, const float* cos_sin, size_t n_pairs, bool half_split) {
  float* first = head;
  float* second = half_split ? head + n_pairs : head + 1;
  const size_t step = half_split ? 1 : 2;
  for (size_t i = 0; i < n_pairs; ++i) {
    const float a = first[i * step];
    const float b = second[i * step];
    const float cos = cos_sin[2 * i];
    const float sin = cos_sin[2 * i + 1];
    first[i * step] = a * cos - b * sin;
    second[i * step] = b * cos + a * sin;
  }
}

}  // namespace

const Kernels avx2_kernels = {.name = "avx2",
                              .project = project,
                              .rms_norm = rms_norm,
                              .rope = rope,
                              .write_key = write_key,
                              .write_value = write_value,
                              .attend = attend,
                              .swiglu = swiglu,
                              .sigmoid = sigmoid,
                              .add = add,
                              .scale = scale};

}  // namespace vga::cpu
