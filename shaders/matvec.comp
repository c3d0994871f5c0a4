#version 450
// out = (x W^T + bias) * scale, capped, for few rows of x. A team of lanes computes some outputs
// for all of them, so that each weight is read and decoded once and each x serves several outputs.
//
// Where W is that of experts, one below the other, workgroups along z take one expert of one row
// each. Which one it is stands in a buffer, and only its rows are read.

#include "common.glsl"
#include "reduce.glsl"
#include "weights.glsl"
#include "product.glsl"

layout(binding = 2) readonly buffer Routed {
  float routed[];  // (rows, 2 * n_used), instead of the bias
};

layout(constant_id = 2) const uint team_outputs = 2;
layout(constant_id = 3) const uint max_rows = 1;  // rows of x

void main() {
  const uint first = (group_index() * n_teams + team_index()) * team_outputs;
  uint w_row = first;  // of the part
  uint out_row = 0;
  uint out_col = first_output + first;
  uint x_at = 0;
  if (n_used > 0) {
    out_row = gl_WorkGroupID.z / n_used;
    const uint index = gl_WorkGroupID.z % n_used;
    const uint expert = uint(routed[out_row * padded(2 * n_used) + index]);
    w_row = expert * n_outputs + first - first_output;  // wraps where it lies before the part
    out_col = index * n_outputs + first;
    x_at = (out_row * padded(x_cols) + (x_cols > cols ? index * cols : 0)) / 4;
  }

  float sums[team_outputs * max_rows];
  uint w[team_outputs];
  bool is_there[team_outputs];
  bool any = false;
  for (uint i = 0; i < team_outputs * max_rows; ++i) sums[i] = 0;
  for (uint o = 0; o < team_outputs; ++o) {
    is_there[o] = first + o < n_outputs && w_row + o < part_rows;
    any = any || is_there[o];
    w[o] = base + min(w_row + o, part_rows - 1) * row_halves;
  }
  if (!any) return;

  const uint x_stride = padded(cols) / 4;
  for (uint unit = team_lane(); unit < units(cols); unit += team_size) {
    vec4 a[team_outputs], b[team_outputs];
    for (uint o = 0; o < team_outputs; ++o) decode(w[o], unit, cols, a[o], b[o]);
    const uint at = x_at + first_column(unit) / 4;
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
    const uint o = i % team_outputs;
    if (team_lane() == 0 && r < n_rows && is_there[o]) store(out_row + r, out_col + o, sum);
  }
}
