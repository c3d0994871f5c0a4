#version 450
// out = (x W^T + bias) * scale, capped, for few rows of x. A team of lanes computes some outputs
// for all of them, so that each weight is read and decoded once and each x serves several outputs.

#include "common.glsl"
#include "reduce.glsl"
#include "weights.glsl"
#include "product.glsl"

layout(constant_id = 2) const uint team_outputs = 2;
layout(constant_id = 3) const uint max_rows = 1;  // rows of x

void main() {
  const uint first = (group_index() * n_teams + team_index()) * team_outputs;
  float sums[team_outputs * max_rows];
  uint w[team_outputs];
  for (uint i = 0; i < team_outputs * max_rows; ++i) sums[i] = 0;
  for (uint o = 0; o < team_outputs; ++o) {
    w[o] = base + min(first + o, n_outputs - 1) * row_halves;
  }

  const uint x_stride = padded(cols) / 4;
  for (uint unit = team_lane(); unit < units(cols); unit += team_size) {
    vec4 a[team_outputs], b[team_outputs];
    for (uint o = 0; o < team_outputs; ++o) decode(w[o], unit, cols, a[o], b[o]);
    const uint at = first_column(unit) / 4;
    for (uint r = 0; r < max_rows; ++r) {
      const uint row = min(r, n_rows - 1) * x_stride;
      const vec4 xa = x[row + at];
      const vec4 xb = x[row + at + pair_distance / 4];
      for (uint o = 0; o < team_outputs; ++o) {
        sums[r * team_outputs + o] += dot(a[o], xa) + dot(b[o], xb);
      }
    }
  }

  for (uint i = 0; i < team_outputs * max_rows; ++i) {
    const float sum = team_add(sums[i]);
    const uint r = i / team_outputs;
    const uint o = first + i % team_outputs;
    if (team_lane() == 0 && r < n_rows && o < n_outputs) {
      store(r, o, sum);
    }
  }
}
