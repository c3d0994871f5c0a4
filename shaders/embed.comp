#version 450
// x[r] = table[token of r] * scale, or x[r] += table[position of r] * scale; 8 elements a thread.

#include "common.glsl"
#include "weights.glsl"
#include "batch.glsl"

layout(binding = 1) readonly buffer Rows {
  Row rows[];
};
layout(binding = 2) buffer Out {
  vec4 x[];
};

layout(push_constant) uniform Push {
  uint base;       // of the table's part that is bound, in halves
  uint row_halves;
  uint cols;
  uint first_row;  // of that part
  uint part_rows;
  uint n_rows;     // of the batch
  float scale;
  uint of_positions;
};

void main() {
  const uint row = thread_index() / units(cols);
  const uint unit = thread_index() % units(cols);
  if (row >= n_rows) return;
  const uint entry = (of_positions != 0 ? rows[row].position : rows[row].token) - first_row;
  if (entry >= part_rows) return;
  vec4 a, b;
  decode(base + entry * row_halves, unit, cols, a, b);
  const uint at = (row * padded(cols) + first_column(unit)) / 4;
  const uint pair = at + pair_distance / 4;
  x[at] = of_positions != 0 ? x[at] + scale * a : scale * a;
  x[pair] = of_positions != 0 ? x[pair] + scale * b : scale * b;
}
