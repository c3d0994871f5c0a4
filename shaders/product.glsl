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
};

// Stores a row's product with an output of the part.
void store(uint row, uint part_output, float product) {
  const uint col = first_output + part_output;
  if (has_bias != 0) product += bias[bias_base + col];
  const uint at = row * padded(out_cols) + col;
  if (adds != 0) product += y[at];
  y[at] = capped(product * scale, cap);
}
