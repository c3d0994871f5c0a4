#version 450
// out[i] = x[wanted[i]].

#include "common.glsl"

layout(binding = 0) readonly buffer In {
  vec4 x[];
};
layout(binding = 1) readonly buffer Wanted {
  uint wanted[];
};
layout(binding = 2) writeonly buffer Out {
  vec4 y[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint cols;
};

void main() {
  const uint stride = padded(cols) / 4;
  const uint i = thread_index();
  if (i < n_rows * stride) y[i] = x[wanted[i / stride] * stride + i % stride];
}
