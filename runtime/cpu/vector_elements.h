#pragma once

#include "cpu/vector.h"

namespace vga::cpu {

/// What is done element by element, over vectors V.
template <class V>
class VectorElements {
  using Floats = typename V::Floats;
  static constexpr size_t lanes = V::lanes;

  static Floats sigmoid_of(Floats x) {
    const Floats one = V::set1(1);
    return V::div(one, V::add(one, exp(V::sub(V::zero(), x))));
  }

  /// 0.5 x (1 + tanh(u)) = x sigmoid(2u).
  static Floats gelu_tanh_of(Floats x) {
    constexpr float twice = 1.5957691216f;  // 2 sqrt(2 / pi)
    const Floats square = V::mul(x, x);
    const Floats inner = V::mul(x, V::fma(square, V::set1(0.044715f * twice), V::set1(twice)));
    return V::mul(x, sigmoid_of(inner));
  }

  /// max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2, with erfc(z) as Abramowitz and Stegun's 7.1.26 has
  /// it, within 1.5e-7.
  static Floats gelu_of(Floats x) {
    const Floats size = V::max(x, V::sub(V::zero(), x));
    const Floats y = V::min(V::set1(20), size);  // there is nothing left of erfc there
    const Floats t = V::div(V::set1(1), V::fma(y, V::set1(0.3275911f * 0.70710678f), V::set1(1)));
    Floats sum = V::set1(1.061405429f);
    for (const float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) {
      sum = V::fma(sum, t, V::set1(c));
    }
    const Floats decay = exp(V::mul(V::mul(y, y), V::set1(-0.5f)));
    const Floats half_erfc = V::mul(V::mul(V::mul(sum, t), decay), V::set1(0.5f));
    return V::sub(V::max(x, V::zero()), V::mul(y, half_erfc));
  }

  template <class F>
  [[gnu::always_inline]] static void activate_with(float* x, const float* up, size_t n, F&& f) {
    each_vector(n, [&](auto load, auto store) {
      const Floats y = f(load(x));
      store(x, up != nullptr ? V::mul(y, load(up)) : y);
    });
  }

  /// Sums f(i) in double, as so many sums as fill vectors.
  template <class F>
  [[gnu::always_inline]] static double sum(size_t n, F&& f) {
    constexpr size_t n_sums = 16;
    double sums[n_sums] = {};
    size_t i = 0;
    for (; i + n_sums <= n; i += n_sums) {
      for (size_t j = 0; j < n_sums; ++j) sums[j] += f(i + j);
    }
    for (; i < n; ++i) sums[0] += f(i);
    double total = 0;
    for (const double part : sums) total += part;
    return total;
  }

 public:
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

  static Floats silu(Floats x) { return V::mul(x, sigmoid_of(x)); }

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

  /// c tanh(x / c) within 4e-7 c.
  static Floats capped(Floats x, float c) {
    const Floats e = exp(V::mul(x, V::set1(2 / c)));
    const Floats tanh = V::sub(V::set1(1), V::div(V::set1(2), V::add(V::set1(1), e)));
    return V::mul(tanh, V::set1(c));
  }

  static void activate(Activation kind, float* x, const float* up, size_t n) {
    switch (kind) {
      case Activation::silu:
        return activate_with(x, up, n, silu);
      case Activation::gelu_tanh:
        return activate_with(x, up, n, gelu_tanh_of);
      case Activation::gelu:
        return activate_with(x, up, n, gelu_of);
      case Activation::relu:
        return activate_with(x, up, n, [](Floats y) { return V::max(V::zero(), y); });
      case Activation::sigmoid:
        return activate_with(x, up, n, sigmoid_of);
    }
  }

  static void add(float* x, const float* y, float factor, size_t n) {
    const Floats factors = V::set1(factor);
    each_vector(n, [&](auto load, auto store) { store(x, V::fma(load(y), factors, load(x))); });
  }

  static void scale(float* x, float scale, float cap, size_t n) {
    const Floats scales = V::set1(scale);
    each_vector(n, [&](auto load, auto store) {
      const Floats y = V::mul(load(x), scales);
      store(x, cap == 0 ? y : capped(y, cap));
    });
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

  static void layer_norm(const float* x, const float* weight, const float* bias, size_t n,
                         float eps, float* out) {
    const auto count = static_cast<double>(n);
    const double mean = sum(n, [&](size_t i) { return double{x[i]}; }) / count;
    const double squares = sum(n, [&](size_t i) {
      const double difference = double{x[i]} - mean;
      return difference * difference;
    });
    const double factor = 1 / __builtin_sqrt(squares / count + double{eps});
    for (size_t i = 0; i < n; ++i) {
      const auto normal = static_cast<float>((double{x[i]} - mean) * factor);
      out[i] = normal * weight[i] + bias[i];
    }
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
