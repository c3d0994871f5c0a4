#pragma once

#include "cpu/kernels.h"
#include "cpu/vector_elements.h"

namespace vga::cpu {

/// What delta nets do to columns, over vectors V.
template <class V>
class VectorDelta {
  using Floats = typename V::Floats;
  static constexpr size_t lanes = V::lanes;
  static constexpr size_t max_vectors = 4;  // sums that hide how long an fma takes

  /// `vectors` whole ones of columns.
  template <size_t vectors>
  static void step(const DeltaStep& s, size_t first) {
    float* const state = s.state + first;
    const Floats decay = V::set1(s.decay);
    Floats sums[vectors];
    unrolled<vectors>([&](auto v) { sums[v] = V::zero(); });
    for (size_t i = 0; i < s.dim; ++i) {
      const Floats key = V::set1(s.key[i]);
      unrolled<vectors>(
          [&](auto v) { sums[v] = V::fma(V::load(state + i * s.dim + v * lanes), key, sums[v]); });
    }
    Floats change[vectors];
    unrolled<vectors>([&](auto v) {
      const Floats found = V::mul(sums[v], decay);
      change[v] = V::mul(V::sub(V::load(s.value + first + v * lanes), found), V::set1(s.strength));
      sums[v] = V::zero();
    });
    for (size_t i = 0; i < s.dim; ++i) {
      const Floats key = V::set1(s.key[i]);
      const Floats query = V::set1(s.query[i]);
      unrolled<vectors>([&](auto v) {
        float* at = state + i * s.dim + v * lanes;
        const Floats now = V::fma(key, change[v], V::mul(V::load(at), decay));
        V::store(at, now);
        sums[v] = V::fma(now, query, sums[v]);
      });
    }
    unrolled<vectors>([&](auto v) { V::store(s.out + first + v * lanes, sums[v]); });
  }

  /// n < lanes columns.
  static void step_part(const DeltaStep& s, size_t first, size_t n) {
    float* const state = s.state + first;
    const Floats decay = V::set1(s.decay);
    Floats sum = V::zero();
    for (size_t i = 0; i < s.dim; ++i) {
      sum = V::fma(V::load_part(state + i * s.dim, n), V::set1(s.key[i]), sum);
    }
    const Floats found = V::mul(sum, decay);
    const Floats change =
        V::mul(V::sub(V::load_part(s.value + first, n), found), V::set1(s.strength));
    sum = V::zero();
    for (size_t i = 0; i < s.dim; ++i) {
      float* at = state + i * s.dim;
      const Floats now = V::fma(V::set1(s.key[i]), change, V::mul(V::load_part(at, n), decay));
      V::store_part(at, n, now);
      sum = V::fma(now, V::set1(s.query[i]), sum);
    }
    V::store_part(s.out + first, n, sum);
  }

 public:
  static void delta_step(const DeltaStep& s) {
    size_t first = 0;
    for (; first + max_vectors * lanes <= s.n_cols; first += max_vectors * lanes) {
      step<max_vectors>(s, first);
    }
    for (; first + lanes <= s.n_cols; first += lanes) step<1>(s, first);
    if (first < s.n_cols) step_part(s, first, s.n_cols - first);
  }

  static void convolve(float* x, float* inputs, size_t stride, const float* taps, size_t n_taps,
                       size_t n) {
    VectorElements<V>::each_vector(n, [&](auto load, auto store) {
      const Floats current = load(x);
      Floats sum = V::zero();
      for (size_t tap = 0; tap + 1 < n_taps; ++tap) {
        sum = V::fma(load(inputs + tap * stride), load(taps + tap * n), sum);
        const bool is_last = tap + 2 == n_taps;
        store(inputs + tap * stride, is_last ? current : load(inputs + (tap + 1) * stride));
      }
      sum = V::fma(current, load(taps + (n_taps - 1) * n), sum);
      store(x, VectorElements<V>::silu(sum));
    });
  }
};

}  // namespace vga::cpu
