#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vga/config.h"

namespace vga {

/// Angles of rotary position embedding, as good at position 10^12 as at 10. An angle is a whole
/// number of 2^-64 turns and positions multiply it in integers: full turns drop out of the product
/// by themselves, and the angle between two positions depends on their distance exactly. What
/// rounding a step costs, at most 2^-65 turns or one part in 2^53, grows with that distance alone.
class Rope {
 public:
  /// Table `table` of a model. `factors` divide the frequencies: (rope_dim / 2), or empty where all
  /// are 1.
  Rope(const Config& config, size_t table, std::span<const float> factors = {});

  /// Appends cosine and sine of each rotated pair at `position`, times the table's magnitude:
  /// (rope_dim / 2, 2).
  void append(int64_t position, std::vector<float>& angles) const;

 private:
  std::vector<uint64_t> steps_;  // (rope_dim / 2) turns per position, in units of 2^-64
  double magnitude_;
};

/// All tables of a model.
std::vector<Rope> make_ropes(const Config& config, std::span<const float> factors);

/// Radians per position of each pair of a table before any factors: (rope_dim / 2).
std::vector<double> rope_frequencies(const Config& config, const RopeTable& table);

}  // namespace vga
