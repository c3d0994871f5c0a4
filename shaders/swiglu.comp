#version 450
// gate = silu(gate) * up. Rows are taken with the zeros behind them, which stay zeros.

#include "common.glsl"

layout(binding = 0) readonly buffer Up {
  vec4 up[];
};
layout(binding = 1) buffer Gate {
  vec4 gate[];
};

layout(push_constant) uniform Push {
  uint n;
};

void main() {
  const uint i = thread_index();
  if (i < n) gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
}
