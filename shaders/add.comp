#version 450
// x += y * factor. Rows are taken with the zeros behind them.

#include "common.glsl"

layout(binding = 0) readonly buffer Y {
  vec4 y[];
};
layout(binding = 1) buffer X {
  vec4 x[];
};

layout(push_constant) uniform Push {
  uint n;
  float factor;
};

void main() {
  const uint i = thread_index();
  if (i < n) x[i] += y[i] * factor;
}
