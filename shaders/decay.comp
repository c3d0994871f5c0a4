#version 450
// x = exp(scale * log(1 + exp(x + bias))), with a scale and a bias for each column.

#include "common.glsl"

layout(binding = 0) readonly buffer Bias {
  float bias[];
};
layout(binding = 1) readonly buffer Scale {
  float scale[];
};
layout(binding = 2) buffer X {
  float x[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint cols;
  uint bias_base;
  uint scale_base;
};

// log(1 + y) for y from 0 to 1, however small: the series of 2 atanh(y / (2 + y)). log() may be off
// by 2^-21 there, and a state that decays slowly is made of that.
float log_1_plus(float y) {
  const float s = y / (2 + y);  // up to 1/3
  const float t = s * s;
  float sum = 0;
  for (int n = 15; n > 0; n -= 2) sum = sum * t + 1 / float(n);
  return 2 * s * sum;
}

void main() {
  const uint row = thread_index() / cols;
  const uint col = thread_index() % cols;
  if (row >= n_rows) return;
  const uint at = row * padded(cols) + col;
  const float shifted = x[at] + bias[bias_base + col];
  // A form that no x is too large for.
  const float softplus = max(shifted, 0) + log_1_plus(exp(-abs(shifted)));
  x[at] = exp(scale[scale_base + col] * softplus);
}
