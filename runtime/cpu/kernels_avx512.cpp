// Compiled for AVX-512 with VNNI; see vector.h for what may be called here.

#include <cstring>

#include <immintrin.h>

#include "cpu/vector_kernels.h"
#include "cpu/vnni.h"

namespace vga::cpu {
namespace {

struct Avx512 : Vnni<Avx512> {
  using Floats = __m512;
  using Ints = __m512i;
  static constexpr size_t lanes = 16;
  static constexpr size_t float_tile = 12;
  static constexpr size_t float_sums = 24;

  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats set1(float x) { return _mm512_set1_ps(x); }
  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
  /// The first n < lanes elements, then zeros.
  static Floats load_part(const float* from, size_t n) {
    return _mm512_maskz_loadu_ps(first(n), from);
  }
  static void store_part(float* to, size_t n, Floats x) { _mm512_mask_storeu_ps(to, first(n), x); }

  static Floats load_f16(const std::byte* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Floats load_bf16(const std::byte* from) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  static Floats load_s8(const std::byte* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_lanes(from)));
  }
  static Floats load_u8(const std::byte* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_lanes(from)));
  }
  static uint16_t to_f16(float x) {
    const __m128i halves = _mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT);
    return static_cast<uint16_t>(_mm_cvtsi128_si32(halves));
  }

  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
  static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static Floats round(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
  /// x * 2^n, n whole.
  static Floats times_power_of_two(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }
  static float sum_lanes(Floats x) { return _mm512_reduce_add_ps(x); }
  static float max_lanes(Floats x) { return _mm512_reduce_max_ps(x); }

  /// Rotates pairs (a, b) by angles given as pairs (cos, sin).
  static Floats rotate_pairs(Floats x, Floats cos_sin) {
    const Floats cos = _mm512_moveldup_ps(cos_sin);
    const Floats sin = _mm512_movehdup_ps(cos_sin);
    return _mm512_fmaddsub_ps(x, cos, _mm512_mul_ps(_mm512_permute_ps(x, 0xB1), sin));
  }

  static Ints load_bytes(const std::byte* from) { return _mm512_loadu_si512(from); }
  static Ints and_bytes(Ints x, char mask) { return _mm512_and_si512(x, _mm512_set1_epi8(mask)); }
  static Ints or_bytes(Ints a, Ints b) { return _mm512_or_si512(a, b); }
  /// Shift 16 bits at a time: what crosses from one byte to the next is for the caller to mask.
  template <unsigned n>
  static Ints shift_left(Ints x) {
    return _mm512_slli_epi16(x, n);
  }
  template <unsigned n>
  static Ints shift_right(Ints x) {
    return _mm512_srli_epi16(x, n);
  }
  static Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }

  static Ints zero_words() { return _mm512_setzero_si512(); }
  template <unsigned n>
  static Ints shift_words_left(Ints x) {
    return _mm512_slli_epi32(x, n);
  }
  static Ints broadcast(const std::byte* from) {
    int32_t word;
    std::memcpy(&word, from, sizeof word);
    return _mm512_set1_epi32(word);
  }
  static Ints add_byte_products(Ints sum, Ints q, Ints x) { return _mm512_dpbusd_epi32(sum, q, x); }

  /// Rounds 32 floats to int8, see prepare(); the sums are those of each 16. Returns d.
  static float quantize_group(const float* x, std::byte* out, uint32_t (&sums)[2]) {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    const Floats halves[2] = {load(x), load(x + 16)};
    // As integers, so that NaN is the largest of all.
    const __m512i max =
        _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(halves[0]), magnitude),
                         _mm512_and_si512(_mm512_castps_si512(halves[1]), magnitude));
    const float highest =
        _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(max))));
    const float d = highest / 127;
    const Floats inverse = set1(highest > smallest_activation ? 1 / d : 0);
    for (size_t i = 0; i < 2; ++i) {
      const __m512i q = _mm512_cvtps_epi32(mul(halves[i], inverse));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * i), _mm512_cvtsepi32_epi8(q));
      sums[i] = static_cast<uint32_t>(_mm512_reduce_add_epi32(q));
    }
    return d;
  }

  /// Sums squares in double.
  struct SquareSum {
    __m512d low = _mm512_setzero_pd();
    __m512d high = _mm512_setzero_pd();
    void add(Floats x) {
      const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
      const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
      low = _mm512_fmadd_pd(a, a, low);
      high = _mm512_fmadd_pd(b, b, high);
    }
    double total() const { return _mm512_reduce_add_pd(_mm512_add_pd(low, high)); }
  };

 private:
  static __mmask16 first(size_t n) { return static_cast<__mmask16>((1u << n) - 1); }
  static __m128i load_lanes(const std::byte* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
};

}  // namespace

const Kernels avx512_kernels = vector_kernels<Avx512>("avx512");

}  // namespace vga::cpu
