#pragma once

#include "cpu/vector.h"

namespace vga::cpu {

/// What is done element by element, over vectors V.
template <class V>
class VectorElements {
  using Floats = typename V::Floats;
  static constexpr size_t lanes = V::lanes;

  /// Calls f(load, store) for whole vectors of n elements, then for the rest.
  template <class F>
  [[gnu::always_inline]] static void each_vector(size_t n, F&& f) {
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      f([&](const float* from) { return V::load(from + i); },
        [&](float* to, Floats x) { V::store(to + i, x); });
    }
    if (i == n) return;
    f([&](const float* from) { return V::load_part(from + i, n - i); },
      [&](float* to, Floats x) { V::store_part(to + i, n - i, x); });
  }

  static Floats sigmoid_of(Floats x) {
    const Floats one = V::set1(1);
    return V::div(one, V::add(one, exp(V::sub(V::zero(), x))));
  }

 public:
  /// e^x within 2 ulp: 0 below -104, infinity above 89, NaN for NaN.
  static Floats exp(Floats x) {
    // min and max return their second operand when either is NaN.
    x = V::max(V::set1(-104), V::min(V::set1(89), x));
    // e^x = 2^n e^r, |r| <= ln(2) / 2; ln(2) in two parts keeps r exact.
    const Floats n = V::round(V::mul(x, V::set1(1.44269504f)));
    Floats r = V::fma(n, V::set1(-0.693359375f), x);
    r = V::fma(n, V::set1(2.12194440e-4f), r);
    // The minimax polynomial of Cephes' expf.
    Floats y = V::set1(1.9875691500e-4f);
    for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                          5.0000001201e-1f, 1.f, 1.f}) {
      y = V::fma(y, r, V::set1(c));
    }
    return V::times_power_of_two(y, n);
  }

  static void swiglu(float* gate, const float* up, size_t n) {
    each_vector(n, [&](auto load, auto store) {
      const Floats g = load(gate);
      store(gate, V::mul(V::mul(g, sigmoid_of(g)), load(up)));
    });
  }

  static void sigmoid(float* x, size_t n) {
    each_vector(n, [&](auto load, auto store) { store(x, sigmoid_of(load(x))); });
  }

  static void add(float* x, const float* y, size_t n) {
    each_vector(n, [&](auto load, auto store) { store(x, V::add(load(x), load(y))); });
  }

  static void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
    typename V::SquareSum sum;  // in double, so that no x that is a float is too large to square
    each_vector(n, [&](auto load, auto) { sum.add(load(x)); });
    const double mean = sum.total() / static_cast<double>(n);
    const auto factor = static_cast<float>(1 / __builtin_sqrt(mean + double{eps}));
    const Floats factors = V::set1(factor);
    each_vector(n, [&](auto load, auto store) {
      store(out, V::mul(V::mul(load(x), factors), load(weight)));
    });
  }

  static void rope(float* head, const float* cos_sin, size_t n_pairs, bool half_split) {
    size_t i = 0;  // pairs done
    if (!half_split) {
      for (; i + lanes / 2 <= n_pairs; i += lanes / 2) {
        V::store(head + 2 * i, V::rotate_pairs(V::load(head + 2 * i), V::load(cos_sin + 2 * i)));
      }
    }
    float* first = head;
    float* second = half_split ? head + n_pairs : head + 1;
    const size_t step = half_split ? 1 : 2;
    for (; i < n_pairs; ++i) {
      const float a = first[i * step];
      const float b = second[i * step];
      const float cos = cos_sin[2 * i];
      const float sin = cos_sin[2 * i + 1];
      first[i * step] = a * cos - b * sin;
      second[i * step] = b * cos + a * sin;
    }
  }
};

}  // namespace vga::cpu
