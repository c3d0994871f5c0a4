#version 450
// out = (x W^T + bias) * scale, capped, for many rows of x: tiles of 64 outputs times 64 rows
// through shared memory, of which each of 128 lanes computes 8 times 4. Columns are taken 16 at a
// time, as two units of the weights, which need not be neighbours.

#include "common.glsl"
#include "weights.glsl"
#include "product.glsl"

const uint tile = 64;
const uint tile_units = 2;
const uint stride = 2 * tile_units + 1;  // in vec4; odd, or rows would meet in the same banks

const uint lane_outputs = 8;
const uint lane_rows = 4;
const uint output_lanes = tile / lane_outputs;  // neighbours along the outputs
const uint row_lanes = tile / lane_rows;

shared vec4 w_tile[tile * stride];  // (outputs, columns / 4)
shared vec4 x_tile[tile * stride];  // (rows, columns / 4)

void main() {
  const uint first = gl_WorkGroupID.x * tile;
  const uint first_row = gl_WorkGroupID.y * tile;
  const uint output_lane = lane_index() % output_lanes;
  const uint row_lane = lane_index() / output_lanes;
  const uint x_stride = padded(cols) / 4;

  float sums[lane_rows][lane_outputs];
  for (uint r = 0; r < lane_rows; ++r) {
    for (uint o = 0; o < lane_outputs; ++o) sums[r][o] = 0;
  }

  for (uint first_unit = 0; first_unit < units(cols); first_unit += tile_units) {
    for (uint i = lane_index(); i < tile * tile_units; i += workgroup_size) {
      const uint unit = first_unit + i % tile_units;
      const uint at = i / tile_units * stride + i % tile_units * 2;
      const bool inside = unit < units(cols);
      vec4 wa = vec4(0), wb = vec4(0), xa = vec4(0), xb = vec4(0);
      if (inside && first + i / tile_units < n_outputs) {
        decode(base + (first + i / tile_units) * row_halves, unit, cols, wa, wb);
      }
      if (inside && first_row + i / tile_units < n_rows) {
        const uint from = (first_row + i / tile_units) * x_stride + first_column(unit) / 4;
        xa = x[from];
        xb = x[from + pair_distance / 4];
      }
      w_tile[at] = wa;
      w_tile[at + 1] = wb;
      x_tile[at] = xa;
      x_tile[at + 1] = xb;
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
    const uint row = first_row + row_lane + r * row_lanes;
    for (uint o = 0; o < lane_outputs; ++o) {
      const uint out_col = first + output_lane + o * output_lanes;
      if (row < n_rows && out_col < n_outputs) store(row, out_col, sums[r][o]);
    }
  }
}
