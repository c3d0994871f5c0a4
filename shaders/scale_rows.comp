#version 450
// Multiplies each row of x by its factor.

#include "common.glsl"

layout(binding = 0) readonly buffer Factors {
  float factors[];  // (rows, 1)
};
layout(binding = 1) buffer X {
  vec4 x[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint cols;
};

void main() {
  const uint stride = padded(cols) / 4;
  const uint i = thread_index();
  if (i < n_rows * stride) x[i] *= factors[i / stride * padded(1)];
}
