// What matvec.comp and matmul.comp agree on: rows of x, a part of W, and what becomes of a product.

#include "cap.glsl"

layout(binding = 1) readonly buffer In {
  vec4 x[];
};
layout(binding = 2) readonly buffer Bias {
  float bias[];
};
layout(binding = 3) buffer Out {
  float y[];
};

layout(push_constant) uniform Push {
  uint base;          // of the part of W that is bound, in halves
  uint row_halves;
  uint cols;
  uint n_rows;        // of x
  uint first_output;  // of that part
  uint n_outputs;
  uint out_cols;
  uint has_bias;      // else anything is bound
  uint bias_base;
  uint adds;          // to what is there
  float scale;
  float cap;
  uint part_rows;     // rows of W in that part
  uint n_used;        // experts of a row; 0: W is not that of experts
  uint x_cols;        // of a row of x: cols, or those of all its experts
  uint first_tile_output;
};

void store(uint row, uint col, float product) {
  if (has_bias != 0) product += bias[bias_base + col];
  const uint at = row * padded(out_cols) + col;
  if (adds != 0) product += y[at];
  y[at] = capped(product * scale, cap);
}
