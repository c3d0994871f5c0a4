#include "gguf/encode_k.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

#include "vga/dtype.h"

// The squared error counts all elements alike. Weights that favour large ones were tried: in 17 of
// 18 cases the models in models/ then predicted worse (KL divergence to f16 up to 5 % larger with
// rms + |x|, 7 to 22 % with x^2).
//
// The functions that look at every element do so in lanes, each with its own sum, so that the
// compiler may compute them at once.

namespace vga {
namespace {

constexpr size_t lanes = 8;

float sum_of(const float (&partial)[lanes]) {
  float sum = 0;
  for (const float x : partial) sum += x;
  return sum;
}

/// `x` rounded to the nearest integer and clamped. In a float as large as 1.5 * 2^23 the last bit
/// is worth 1: adding it rounds.
float nearest(float x, float lowest, float highest) {
  constexpr float rounds = 0x1.8p23f;
  const float rounded = (x + rounds) - rounds;
  const float below = rounded < highest ? rounded : highest;
  return below > lowest ? below : lowest;
}

// -- q4_k and q5_k --------------------------------------------------------------------------------
//
// A group of 32 elements wants a scale and a minimum, x = scale * level - min; the block stores
// both as six-bit multiples of d and dmin.
//   1. For each group alone: some scales are tried, each improved by least squares for the levels
//      that it leads to; the best is kept.
//   2. d and dmin are such that the largest scale and minimum are 63 of them.
//   3. For each group the multiples next to what it wants are tried in pairs, since an error of the
//      scale can make up for one of the minimum.
//   4. Now that all levels and multiples are known, d and dmin are fitted by least squares and step
//      3 is done again; the better of both results is kept.

constexpr size_t group_size = 32;
constexpr size_t n_groups = 8;
constexpr int max_multiple = 63;

/// x = scale * level - min.
struct Affine {
  float scale;
  float min;

  float level(float x, float inverse_scale, float max_level) const {
    return nearest((x + min) * inverse_scale, 0, max_level);
  }
};

/// The squared error of the nearest levels.
float error_of(const float* group, Affine a, float max_level) {
  const float inverse = reciprocal(a.scale);
  float errors[lanes] = {};
  for (size_t i = 0; i < group_size; i += lanes) {
    for (size_t l = 0; l < lanes; ++l) {
      const float x = group[i + l];
      const float difference = a.scale * a.level(x, inverse, max_level) - a.min - x;
      errors[l] += difference * difference;
    }
  }
  return sum_of(errors);
}

/// The scale and the minimum >= 0 with the least error for the levels that `a` leads to.
Affine refit(const float* group, Affine a, float max_level) {
  const float inverse = reciprocal(a.scale);
  float sums_x[lanes] = {};
  float sums_q[lanes] = {};
  float sums_qq[lanes] = {};
  float sums_qx[lanes] = {};
  for (size_t i = 0; i < group_size; i += lanes) {
    for (size_t l = 0; l < lanes; ++l) {
      const float x = group[i + l];
      const float level = a.level(x, inverse, max_level);
      sums_x[l] += x;
      sums_q[l] += level;
      sums_qq[l] += level * level;
      sums_qx[l] += level * x;
    }
  }
  const float x = sum_of(sums_x);
  const float q = sum_of(sums_q);
  const float qq = sum_of(sums_qq);
  const float qx = sum_of(sums_qx);
  const float determinant = group_size * qq - q * q;
  if (!(determinant > 0)) return a;
  const float min = (q * qx - qq * x) / determinant;
  if (min < 0) return {qx / qq, 0};
  return {(group_size * qx - q * x) / determinant, min};
}

Affine fit(const float* group, float max_level) {
  const auto [lowest, highest] = std::minmax_element(group, group + group_size);
  const float min = std::max(-*lowest, 0.f);
  const float range = *highest + min;
  if (!(range > 0)) return {0, min};
  Affine best{range / max_level, min};
  float least = error_of(group, best, max_level);
  // From a range that leaves out the largest elements to one that does not use the upper levels.
  for (int percent = 84; percent <= 108; percent += 3) {
    const float reach = static_cast<float>(percent) / 100 * range;
    const Affine tried = refit(group, {reach / max_level, min}, max_level);
    const float error = error_of(group, tried, max_level);
    if (error < least) {
      best = tried;
      least = error;
    }
  }
  return best;
}

struct Multiples {
  int scale;
  int min;
};

/// Everything that a q4_k or q5_k block stores but the levels.
struct BlockFit {
  float d;     // of f16
  float dmin;  // of f16
  std::array<Multiples, n_groups> multiples;
  float error;

  Affine group(size_t g) const {
    return {d * static_cast<float>(multiples[g].scale),
            dmin * static_cast<float>(multiples[g].min)};
  }
};

float rounded_to_f16(float x) {
  return f32_from_f16(f16_from_f32(x));
}

/// The multiples of `unit` around `x`.
std::pair<int, int> around(float x, float unit) {
  const auto middle = static_cast<int>(nearest(x * reciprocal(unit), 0, max_multiple));
  return {std::max(middle - 1, 0), std::min(middle + 1, max_multiple)};
}

/// Chooses the multiples of fit.d and fit.dmin next to what each group wants.
void choose_multiples(const float* x, const std::array<Affine, n_groups>& wanted, float max_level,
                      BlockFit& fit) {
  fit.error = 0;
  for (size_t g = 0; g < n_groups; ++g) {
    const auto [scale_from, scale_to] = around(wanted[g].scale, fit.d);
    const auto [min_from, min_to] = around(wanted[g].min, fit.dmin);
    float least = INFINITY;
    for (int scale = scale_from; scale <= scale_to; ++scale) {
      for (int min = min_from; min <= min_to; ++min) {
        const Affine tried{fit.d * static_cast<float>(scale), fit.dmin * static_cast<float>(min)};
        const float error = error_of(x + g * group_size, tried, max_level);
        if (error < least) {
          fit.multiples[g] = {scale, min};
          least = error;
        }
      }
    }
    fit.error += least;
  }
}

/// d and dmin with the least error for the multiples and levels of `fit`.
void refit_units(const float* block, float max_level, BlockFit& fit) {
  // x = d * a - dmin * b: a is the level times the scale's multiple, b the minimum's multiple.
  double aa = 0;
  double ab = 0;
  double bb = 0;
  double ax = 0;
  double bx = 0;
  for (size_t g = 0; g < n_groups; ++g) {
    const Affine affine = fit.group(g);
    const float inverse = reciprocal(affine.scale);
    const auto b = static_cast<double>(fit.multiples[g].min);
    for (size_t i = 0; i < group_size; ++i) {
      const float x = block[g * group_size + i];
      const double a = fit.multiples[g].scale * double{affine.level(x, inverse, max_level)};
      aa += a * a;
      ab += a * b;
      bb += b * b;
      ax += a * double{x};
      bx += b * double{x};
    }
  }
  const double determinant = aa * bb - ab * ab;
  if (!(determinant > 1e-9 * aa * bb)) return;
  fit.d = rounded_to_f16(static_cast<float>((ax * bb - bx * ab) / determinant));
  fit.dmin = std::max(rounded_to_f16(static_cast<float>((ab * ax - aa * bx) / determinant)), 0.f);
}

BlockFit fit_block(const float* x, float max_level) {
  std::array<Affine, n_groups> wanted;
  float largest_scale = 0;
  float largest_min = 0;
  for (size_t g = 0; g < n_groups; ++g) {
    wanted[g] = fit(x + g * group_size, max_level);
    largest_scale = std::max(largest_scale, wanted[g].scale);
    largest_min = std::max(largest_min, wanted[g].min);
  }
  BlockFit best{rounded_to_f16(largest_scale / max_multiple),
                rounded_to_f16(largest_min / max_multiple),
                {},
                0};
  choose_multiples(x, wanted, max_level, best);
  BlockFit tried = best;
  refit_units(x, max_level, tried);
  choose_multiples(x, wanted, max_level, tried);
  return tried.error < best.error ? tried : best;
}

template <class Block>
void store_units(const BlockFit& fit, Block& block) {
  block.d = f16_from_f32(fit.d);
  block.dmin = f16_from_f32(fit.dmin);
  for (size_t j = 0; j < 4; ++j) {
    const Multiples low = fit.multiples[j];
    const Multiples high = fit.multiples[j + 4];
    block.scales[j] = static_cast<uint8_t>(low.scale | high.scale >> 4 << 6);
    block.scales[4 + j] = static_cast<uint8_t>(low.min | high.min >> 4 << 6);
    block.scales[8 + j] = static_cast<uint8_t>((high.scale & 15) | (high.min & 15) << 4);
  }
}

/// store(group, element, level) for all 256.
template <class Store>
void each_level(const float* x, const BlockFit& fit, float max_level, Store&& store) {
  for (size_t g = 0; g < n_groups; ++g) {
    const Affine affine = fit.group(g);
    const float inverse = reciprocal(affine.scale);
    for (size_t i = 0; i < group_size; ++i) {
      store(g, i, static_cast<int>(affine.level(x[g * group_size + i], inverse, max_level)));
    }
  }
}

void put_bits(uint8_t& byte, int bits, size_t shift) {
  byte = static_cast<uint8_t>(byte | bits << shift);
}

// -- q6_k -----------------------------------------------------------------------------------------
//
// 16 groups of 16, x = d * scale * (level - 32) with scales of eight bits. The peak of a group,
// whatever its sign, wants to be level -32, the one without a counterpart; a scale that cuts it off
// or leaves room beside it may be better. All integers in reach are tried.

constexpr size_t small_group = 16;
constexpr size_t n_small_groups = 16;
constexpr float max_scale = 127;
constexpr float least_reach = 0.85f;
constexpr float most_reach = 1.05f;

float signed_level(float x, float inverse_scale) {
  return nearest(x * inverse_scale, -32, 31);
}

float error_of(const float* group, float scale) {
  const float inverse = reciprocal(scale);
  float errors[lanes] = {};
  for (size_t i = 0; i < small_group; i += lanes) {
    for (size_t l = 0; l < lanes; ++l) {
      const float x = group[i + l];
      const float difference = scale * signed_level(x, inverse) - x;
      errors[l] += difference * difference;
    }
  }
  return sum_of(errors);
}

/// The multiple of d, negative for a positive peak, with the least error.
int8_t fit_scale(const float* group, float peak, float d) {
  const float wanted = std::fabs(peak) / 32 * reciprocal(d);
  const auto first = static_cast<int>(nearest(wanted * least_reach, 0, max_scale));
  const auto last = static_cast<int>(nearest(wanted * most_reach, 0, max_scale));
  const int sign = peak > 0 ? -1 : 1;
  int best = 0;
  float least = INFINITY;
  for (int scale = first; scale <= last; ++scale) {
    const float error = error_of(group, d * static_cast<float>(sign * scale));
    if (error < least) {
      best = sign * scale;
      least = error;
    }
  }
  return static_cast<int8_t>(best);
}

}  // namespace

void encode_block(const float* x, BlockQ4_K& block) {
  constexpr float max_level = 15;
  const BlockFit fit = fit_block(x, max_level);
  store_units(fit, block);
  each_level(x, fit, max_level, [&](size_t g, size_t i, int level) {
    put_bits(block.q[g / 2 * group_size + i], level, g % 2 * 4);
  });
}

void encode_block(const float* x, BlockQ5_K& block) {
  constexpr float max_level = 31;
  const BlockFit fit = fit_block(x, max_level);
  store_units(fit, block);
  each_level(x, fit, max_level, [&](size_t g, size_t i, int level) {
    put_bits(block.q[g / 2 * group_size + i], level & 15, g % 2 * 4);
    put_bits(block.high[i], level >> 4, g);
  });
}

void encode_block(const float* x, BlockQ6_K& block) {
  std::array<float, n_small_groups> peaks;
  float largest = 0;
  for (size_t g = 0; g < n_small_groups; ++g) {
    const float* group = x + g * small_group;
    const auto [low, high] = std::minmax_element(group, group + small_group);
    peaks[g] = -*low > *high ? *low : *high;
    largest = std::max(largest, std::fabs(peaks[g]));
  }
  block.d = f16_from_f32(most_reach * largest / 32 / max_scale);
  const float d = f32_from_f16(block.d);
  for (size_t g = 0; g < n_small_groups; ++g) {
    const float* group = x + g * small_group;
    block.scale[g] = fit_scale(group, peaks[g], d);
    const float inverse = reciprocal(d * block.scale[g]);
    const size_t quarter = g / 2 % 4;
    uint8_t* low = block.low + g / 8 * 64 + quarter % 2 * 32 + g % 2 * small_group;
    uint8_t* high = block.high + g / 8 * 32 + g % 2 * small_group;
    for (size_t i = 0; i < small_group; ++i) {
      const int level = static_cast<int>(signed_level(group[i], inverse)) + 32;
      put_bits(low[i], level & 15, quarter / 2 * 4);
      put_bits(high[i], level >> 4, quarter * 2);
    }
  }
}

}  // namespace vga
