#include "compute/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace vga {
namespace {

/// How much of pair i is divided by yarn's factor: 0 for those that turn often within the original
/// context, 1 for those that hardly turn, a ramp between (arXiv 2309.00071, section 3.2, with the
/// edges rounded to whole pairs as published models have it).
class YarnRamp {
 public:
  YarnRamp(const Config& c, const RopeTable& table) {
    const auto edge = [&](double turns) {
      const double context = static_cast<double>(c.original_context);
      return static_cast<double>(c.rope_dim) * std::log(context / (2 * std::numbers::pi * turns)) /
             (2 * std::log(table.theta));
    };
    low_ = std::max(std::floor(edge(table.beta_fast)), 0.0);
    high_ = std::min(std::ceil(edge(table.beta_slow)), static_cast<double>(c.rope_dim) - 1);
  }

  double at(size_t pair) const {
    const double width = std::max(high_ - low_, 0.001);  // a step, where both edges are one
    return std::clamp((static_cast<double>(pair) - low_) / width, 0.0, 1.0);
  }

 private:
  double low_;
  double high_;
};

}  // namespace

std::vector<double> rope_frequencies(const Config& c, const RopeTable& table) {
  std::vector<double> frequencies(c.rope_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(c.rope_dim);
    frequencies[i] = std::pow(table.theta, exponent);
    if (table.scaling == RopeTable::Scaling::linear) {
      frequencies[i] /= table.factor;
    } else if (table.scaling == RopeTable::Scaling::yarn) {
      const double share = YarnRamp(c, table).at(i);
      frequencies[i] *= 1 - share + share / table.factor;
    }
  }
  return frequencies;
}

Rope::Rope(const Config& c, size_t table, std::span<const float> factors)
    : steps_(c.rope_dim / 2), magnitude_(double{c.rope_tables[table].magnitude}) {
  const std::vector<double> frequencies = rope_frequencies(c, c.rope_tables[table]);
  for (size_t i = 0; i < steps_.size(); ++i) {
    const double factor = factors.empty() ? 1 : double{factors[i]};
    const double turns = frequencies[i] / factor / (2 * std::numbers::pi);
    steps_[i] = static_cast<uint64_t>(std::ldexp(turns - std::floor(turns), 64));
  }
}

void Rope::append(int64_t position, std::vector<float>& angles) const {
  for (const uint64_t step : steps_) {
    const uint64_t turns = static_cast<uint64_t>(position) * step;  // modulo 2^64: a full turn
    // Read as signed: half a turn either way, small angles keep all their digits.
    const double angle =
        std::ldexp(static_cast<double>(static_cast<int64_t>(turns)), -63) * std::numbers::pi;
    angles.push_back(static_cast<float>(magnitude_ * std::cos(angle)));
    angles.push_back(static_cast<float>(magnitude_ * std::sin(angle)));
  }
}

std::vector<Rope> make_ropes(const Config& config, std::span<const float> factors) {
  std::vector<Rope> ropes;
  for (size_t i = 0; i < config.rope_tables.size(); ++i) ropes.emplace_back(config, i, factors);
  return ropes;
}

}  // namespace vga
