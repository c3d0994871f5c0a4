#pragma once

#include <cstring>

#include <immintrin.h>

#include "cpu/vector_kernels.h"

/// The vectors of AVX2, FMA and F16C, and how bytes are multiplied with no more than these; see
/// vector.h for what may be called here, and why nothing in it may be linked elsewhere.
namespace vga::cpu {
namespace {

struct Avx2 {
  using Floats = __m256;
  using Ints = __m256i;
  static constexpr size_t lanes = 8;
  static constexpr size_t float_tile = 6;
  static constexpr size_t float_sums = 12;

  static Floats zero() { return _mm256_setzero_ps(); }
  static Floats set1(float x) { return _mm256_set1_ps(x); }
  static Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
  /// The first n < lanes elements, then zeros.
  static Floats load_part(const float* from, size_t n) {
    float all[lanes] = {};
    std::memcpy(all, from, n * sizeof(float));
    return load(all);
  }
  static void store_part(float* to, size_t n, Floats x) {
    float all[lanes];
    store(all, x);
    std::memcpy(to, all, n * sizeof(float));
  }

  static Floats load_f16(const std::byte* from) { return _mm256_cvtph_ps(load_halves(from)); }
  static Floats load_bf16(const std::byte* from) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_halves(from)), 16));
  }
  static Floats load_s8(const std::byte* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_lanes(from)));
  }
  static Floats load_u8(const std::byte* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_lanes(from)));
  }
  static uint16_t to_f16(float x) {
    const __m128i halves = _mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT);
    return static_cast<uint16_t>(_mm_cvtsi128_si32(halves));
  }

  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
  static Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  static Floats round(Floats x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  /// x * 2^n, n whole and from -150 to 128: in two factors, since no float holds all of those.
  static Floats times_power_of_two(Floats x, Floats n) {
    const __m256i power = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(power, 1);
    const auto factor = [](__m256i e) {
      return _mm256_castsi256_ps(
          _mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
    };
    return mul(mul(x, factor(half)), factor(_mm256_sub_epi32(power, half)));
  }
  static float sum_lanes(Floats x) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
  }
  static float max_lanes(Floats x) {
    __m128 max = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    return _mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max)));
  }

  /// Rotates pairs (a, b) by angles given as pairs (cos, sin).
  static Floats rotate_pairs(Floats x, Floats cos_sin) {
    const Floats cos = _mm256_moveldup_ps(cos_sin);
    const Floats sin = _mm256_movehdup_ps(cos_sin);
    return _mm256_fmaddsub_ps(x, cos, _mm256_mul_ps(_mm256_permute_ps(x, 0xB1), sin));
  }

  static Ints load_bytes(const std::byte* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static Ints and_bytes(Ints x, char mask) { return _mm256_and_si256(x, _mm256_set1_epi8(mask)); }
  static Ints or_bytes(Ints a, Ints b) { return _mm256_or_si256(a, b); }
  /// Shift 16 bits at a time: what crosses from one byte to the next is for the caller to mask.
  template <unsigned n>
  static Ints shift_left(Ints x) {
    return _mm256_slli_epi16(x, n);
  }
  template <unsigned n>
  static Ints shift_right(Ints x) {
    return _mm256_srli_epi16(x, n);
  }
  static Floats to_floats(Ints x) { return _mm256_cvtepi32_ps(x); }

  /// Two products of a byte and an int8 overflow 16 bits: weights of 8 bits are multiplied as 16,
  /// and by activations of 16, of which the even columns come first and then the odd ones.
  static constexpr size_t x_parts(unsigned bits) { return bits == 8 ? 2 : 1; }

  /// out[p][t] = sum of (q - zero) * x over `n` steps of group(p) from `begin` on; x is
  /// (x_parts, T, 32) bytes, and the negative sums of those n steps' activations (T), see
  /// finish_group().
  template <class Group, size_t begin, size_t n, size_t P, size_t T, class F>
  [[gnu::always_inline]] static void dot(const F& group, const std::byte* x,
                                         const std::byte* negative_sums, Ints (&out)[P][T]) {
    if constexpr (Group::bits == 8) {
      for (size_t t = 0; t < T; ++t) {
        const Ints first = _mm256_slli_epi32(broadcast(negative_sums + 4 * t), log2(Group::zero));
        for (size_t p = 0; p < P; ++p) out[p][t] = first;
      }
      unrolled<2 * n>([&](auto i) __attribute__((always_inline)) {
        constexpr size_t step = begin + i / 2;
        constexpr size_t odd = i % 2;
        Ints q[P];
        for (size_t p = 0; p < P; ++p) {
          const Ints both = group(p).template step<step>();
          q[p] = odd ? shift_right<8>(both) : _mm256_and_si256(both, _mm256_set1_epi16(0xFF));
        }
        for (size_t t = 0; t < T; ++t) {
          const Ints xs = broadcast(x + 32 * (odd * T + t) + 4 * step);
          for (size_t p = 0; p < P; ++p) {
            out[p][t] = add_32(out[p][t], _mm256_madd_epi16(q[p], xs));
          }
        }
      });
      return;
    }
    // Sums of 16 bits may wrap around on the way if the last one fits: two products a step, below
    // 127 times zero or, without a zero point, 2^bits.
    constexpr size_t largest = Group::zero > 0 ? Group::zero : size_t{1} << Group::bits;
    constexpr size_t at_once = n * 2 * 127 * largest < 32768 ? n : n / 2;
    unrolled<n / at_once>([&](auto part) __attribute__((always_inline)) {
      Ints sums[P][T];
      for (size_t t = 0; t < T; ++t) {
        Ints first = _mm256_setzero_si256();
        if (Group::zero > 0) {
          first = _mm256_slli_epi16(broadcast(negative_sums + 4 * t), log2(Group::zero));
        }
        for (size_t p = 0; p < P; ++p) sums[p][t] = first;
      }
      unrolled<at_once>([&](auto i) __attribute__((always_inline)) {
        constexpr size_t step = begin + part * at_once + i;
        Ints q[P];
        for (size_t p = 0; p < P; ++p) q[p] = group(p).template step<step>();
        for (size_t t = 0; t < T; ++t) {
          const Ints xs = broadcast(x + 32 * t + 4 * step);
          for (size_t p = 0; p < P; ++p) {
            sums[p][t] = add_16(sums[p][t], _mm256_maddubs_epi16(q[p], xs));
          }
        }
      });
      for (size_t p = 0; p < P; ++p) {
        for (size_t t = 0; t < T; ++t) {
          const Ints sum = _mm256_madd_epi16(sums[p][t], _mm256_set1_epi16(1));
          out[p][t] = part == 0 ? sum : _mm256_add_epi32(out[p][t], sum);
        }
      }
    });
  }

  /// Brings a group's q (32) into the form that dot() takes, a second part `part_bytes` behind it,
  /// and returns its sum, given that of each half. The negative sums of all 32, the first and the
  /// last 16 are two int16 each, of columns 0 and 1 of every four and of 2 and 3; an int32 (of all)
  /// if there are two parts.
  template <size_t parts>
  static uint32_t finish_group(std::byte* q, size_t part_bytes, const uint32_t (&sums)[2],
                               uint32_t (&negative)[3]) {
    const Ints x = load_bytes(q);
    if constexpr (parts == 2) {
      const uint32_t sum = sums[0] + sums[1];
      store_bytes(q, _mm256_srai_epi16(shift_left<8>(x), 8));
      store_bytes(q + part_bytes, _mm256_srai_epi16(x, 8));
      negative[0] = -sum;
      negative[1] = negative[2] = 0;
      return sum;
    }
    const auto word = [](__m128i words) { return static_cast<uint32_t>(_mm_cvtsi128_si32(words)); };
    const auto negative_sum = [](__m128i words) {
      words = _mm_add_epi16(words, _mm_shuffle_epi32(words, 0x4E));
      words = _mm_add_epi16(words, _mm_shuffle_epi32(words, 0xB1));
      return _mm_sub_epi16(_mm_setzero_si128(), words);
    };
    const Ints pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), x);
    const __m128i first = negative_sum(_mm256_castsi256_si128(pairs));
    const __m128i last = negative_sum(_mm256_extracti128_si256(pairs, 1));
    const __m128i all = _mm_add_epi16(first, last);
    negative[0] = word(all);
    negative[1] = word(first);
    negative[2] = word(last);
    return word(_mm_madd_epi16(all, _mm_set1_epi16(-1)));
  }

  /// Rounds 32 floats to int8, see prepare(); the sums are those of each 16. Returns d.
  static float quantize_group(const float* x, std::byte* out, uint32_t (&sums)[2]) {
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i max = _mm256_setzero_si256();  // as integers, so that NaN is the largest of all
    for (size_t i = 0; i < 4; ++i) {
      const __m256i bits = _mm256_castps_si256(load(x + i * lanes));
      max = _mm256_max_epi32(max, _mm256_and_si256(bits, magnitude));
    }
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256(max, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xB1));
    const float highest = _mm_cvtss_f32(_mm_castsi128_ps(four));
    const float d = highest / 127;
    const Floats inverse = set1(highest > smallest_activation ? 1 / d : 0);
    for (size_t half = 0; half < 2; ++half) {
      const __m256i a = _mm256_cvtps_epi32(mul(load(x + 16 * half), inverse));
      const __m256i b = _mm256_cvtps_epi32(mul(load(x + 16 * half + lanes), inverse));
      // Packing works on halves of the vector: 0-3 8-11 | 4-7 12-15, which the permutation mends.
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
      const __m128i bytes =
          _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * half), bytes);
      const __m256i sum = _mm256_add_epi32(a, b);
      __m128i lanes4 = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
      lanes4 = _mm_add_epi32(lanes4, _mm_shuffle_epi32(lanes4, 0x4E));
      lanes4 = _mm_add_epi32(lanes4, _mm_shuffle_epi32(lanes4, 0xB1));
      sums[half] = static_cast<uint32_t>(_mm_cvtsi128_si32(lanes4));
    }
    return d;
  }

  /// Sums squares in double.
  struct SquareSum {
    __m256d low = _mm256_setzero_pd();
    __m256d high = _mm256_setzero_pd();
    void add(Floats x) {
      const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
      const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
      low = _mm256_fmadd_pd(a, a, low);
      high = _mm256_fmadd_pd(b, b, high);
    }
    double total() const {
      double sums[4];
      _mm256_storeu_pd(sums, _mm256_add_pd(low, high));
      return sums[0] + sums[1] + sums[2] + sums[3];
    }
  };

 protected:
  static __m128i load_halves(const std::byte* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  static __m128i load_lanes(const std::byte* from) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  }
  static Ints broadcast(const std::byte* from) {
    int32_t word;
    std::memcpy(&word, from, sizeof word);
    return _mm256_set1_epi32(word);
  }
  static void store_bytes(std::byte* to, Ints x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x);
  }
  // Additions that stay where they are: GCC would move them behind all the products of a group, and
  // store those, since there are not enough registers.
  static Ints add_16(Ints a, Ints b) {
    Ints sum = _mm256_add_epi16(a, b);
    asm("" : "+x"(sum));
    return sum;
  }
  static Ints add_32(Ints a, Ints b) {
    Ints sum = _mm256_add_epi32(a, b);
    asm("" : "+x"(sum));
    return sum;
  }
};

}  // namespace
}  // namespace vga::cpu
