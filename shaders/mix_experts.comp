#version 450
// out = the sum of what a row's experts gave, as they weigh.

#include "common.glsl"

layout(binding = 0) readonly buffer In {
  float x[];  // (rows, n_used * cols)
};
layout(binding = 1) readonly buffer Routed {
  float routed[];  // (rows, 2 * n_used) experts, then weights
};
layout(binding = 2) writeonly buffer Out {
  float y[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint cols;
  uint n_used;
};

void main() {
  const uint row = thread_index() / cols;
  const uint col = thread_index() % cols;
  if (row >= n_rows) return;
  float sum = 0;
  for (uint i = 0; i < n_used; ++i) {
    sum += x[row * padded(n_used * cols) + i * cols + col] *
           routed[row * padded(2 * n_used) + n_used + i];
  }
  y[row * padded(cols) + col] = sum;
}
