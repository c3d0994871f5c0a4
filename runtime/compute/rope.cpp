#include "compute/rope.h"

#include <cmath>
#include <numbers>

namespace vga {

/// Radians per position of each rotated pair: theta^(-2i / rope_dim) / (scale * factor i).
Rope::Rope(const Config& c, std::span<const float> factors) : steps_(c.rope_dim / 2) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(c.rope_dim);
    const double scale = c.rope_scale * (factors.empty() ? 1 : double{factors[i]});
    const double turns = std::pow(c.rope_theta, exponent) / scale / (2 * std::numbers::pi);
    steps_[i] = static_cast<uint64_t>(std::ldexp(turns - std::floor(turns), 64));
  }
}

void Rope::append(int64_t position, std::vector<float>& angles) const {
  for (const uint64_t step : steps_) {
    const uint64_t turns = static_cast<uint64_t>(position) * step;  // modulo 2^64: a full turn
    // Read as signed: half a turn either way, small angles keep all their digits.
    const double angle =
        std::ldexp(static_cast<double>(static_cast<int64_t>(turns)), -63) * std::numbers::pi;
    angles.push_back(static_cast<float>(std::cos(angle)));
    angles.push_back(static_cast<float>(std::sin(angle)));
  }
}

}  // namespace vga
