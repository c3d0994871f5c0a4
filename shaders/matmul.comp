#version 450
// out = (x W^T + bias) * scale, capped, for many rows of x: tiles of 64 outputs times some rows
// through shared memory, of which each of 128 lanes computes 8 times lane_rows. Columns are taken
// 16 at a time, as two units of the weights, which need not be neighbours.
//
// Where W is that of experts, one below the other, workgroups along z take an expert each, with the
// rows that chose it.

#include "common.glsl"
#include "weights.glsl"
#include "product.glsl"

layout(binding = 2) readonly buffer Groups {
  uint groups[];  // see group_rows.comp; instead of the bias
};

layout(constant_id = 2) const uint lane_rows = 4;

const uint tile_units = 2;
const uint stride = 2 * tile_units + 1;  // in vec4; odd, or rows would meet in the same banks

const uint lane_outputs = 8;
const uint output_lanes = 8;  // neighbours along the outputs
const uint row_lanes = 16;
const uint tile_outputs = output_lanes * lane_outputs;
const uint tile_rows = row_lanes * lane_rows;

shared vec4 w_tile[tile_outputs * stride];  // (outputs, columns / 4)
shared vec4 x_tile[tile_rows * stride];     // (rows, columns / 4)
shared uint x_at[tile_rows];                // where rows of x begin, in vec4
shared uint out_rows[tile_rows];
shared uint out_cols_at[tile_rows];  // the column of the part's, or the expert's, first output

void main() {
  const uint first = first_tile_output + gl_WorkGroupID.x * tile_outputs;
  const uint first_row = gl_WorkGroupID.y * tile_rows;
  const uint expert = gl_WorkGroupID.z;
  const uint output_lane = lane_index() % output_lanes;
  const uint row_lane = lane_index() / output_lanes;

  uint n = n_rows;
  uint w_row = first;  // of the part
  if (n_used > 0) {
    n = groups[expert + 1] - groups[expert];
    w_row = expert * n_outputs + first - first_output;  // wraps where it lies before the part
  }
  if (first_row >= n) return;
  n = min(n - first_row, tile_rows);
  for (uint i = lane_index(); i < n; i += workgroup_size) {
    uint row = first_row + i;
    uint index = 0;
    out_cols_at[i] = first_output;
    if (n_used > 0) {
      const uint pair = groups[gl_NumWorkGroups.z + 1 + groups[expert] + row];
      row = pair / n_used;
      index = pair % n_used;
      out_cols_at[i] = index * n_outputs;
    }
    out_rows[i] = row;
    x_at[i] = (row * padded(x_cols) + (x_cols > cols ? index * cols : 0)) / 4;
  }
  barrier();

  float sums[lane_rows][lane_outputs];
  for (uint r = 0; r < lane_rows; ++r) {
    for (uint o = 0; o < lane_outputs; ++o) sums[r][o] = 0;
  }

  for (uint first_unit = 0; first_unit < units(cols); first_unit += tile_units) {
    for (uint i = lane_index(); i < tile_outputs * tile_units; i += workgroup_size) {
      const uint unit = first_unit + i % tile_units;
      const uint o = i / tile_units;
      vec4 a = vec4(0), b = vec4(0);
      if (unit < units(cols) && first + o < n_outputs && w_row + o < part_rows) {
        decode(base + (w_row + o) * row_halves, unit, cols, a, b);
      }
      w_tile[o * stride + i % tile_units * 2] = a;
      w_tile[o * stride + i % tile_units * 2 + 1] = b;
    }
    for (uint i = lane_index(); i < tile_rows * tile_units; i += workgroup_size) {
      const uint unit = first_unit + i % tile_units;
      const uint row = i / tile_units;
      vec4 a = vec4(0), b = vec4(0);
      if (unit < units(cols) && row < n) {
        const uint from = x_at[row] + first_column(unit) / 4;
        a = x[from];
        b = x[from + pair_distance / 4];
      }
      x_tile[row * stride + i % tile_units * 2] = a;
      x_tile[row * stride + i % tile_units * 2 + 1] = b;
    }
    barrier();
    for (uint k = 0; k < 2 * tile_units; ++k) {
      vec4 w[lane_outputs];
      for (uint o = 0; o < lane_outputs; ++o) {
        w[o] = w_tile[(output_lane + o * output_lanes) * stride + k];
      }
      for (uint r = 0; r < lane_rows; ++r) {
        const vec4 x4 = x_tile[(row_lane + r * row_lanes) * stride + k];
        for (uint o = 0; o < lane_outputs; ++o) sums[r][o] += dot(w[o], x4);
      }
    }
    barrier();
  }

  for (uint r = 0; r < lane_rows; ++r) {
    const uint row = row_lane + r * row_lanes;
    for (uint o = 0; o < lane_outputs; ++o) {
      const uint lane_output = output_lane + o * output_lanes;
      const uint at = first + lane_output;
      if (row < n && at < n_outputs && w_row + lane_output < part_rows) {
        store(out_rows[row], out_cols_at[row] + at, sums[r][o]);
      }
    }
  }
}
