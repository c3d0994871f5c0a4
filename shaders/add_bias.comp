#version 450
// x += bias, row by row.

#include "common.glsl"

layout(binding = 0) readonly buffer Bias {
  float bias[];
};
layout(binding = 1) buffer X {
  float x[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint cols;
  uint bias_base;
};

void main() {
  const uint row = thread_index() / cols;
  const uint col = thread_index() % cols;
  if (row < n_rows) x[row * padded(cols) + col] += bias[bias_base + col];
}
