#version 450
// x = activation(x), times `up` where there is one; four elements a thread.

#include "common.glsl"

// In the order of Activation (vga/config.h).
const uint silu = 0;
const uint gelu_tanh = 1;
const uint gelu = 2;
const uint relu = 3;
const uint sigmoid = 4;

layout(constant_id = 2) const uint kind = silu;
layout(constant_id = 3) const uint has_up = 0;  // else anything is bound

layout(binding = 0) readonly buffer Up {
  vec4 up[];
};
layout(binding = 1) buffer X {
  vec4 x[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint cols;
};

// 1 - erf(z) for z >= 0, off by 1.5e-7 at most: Hastings' approximation, formula 7.1.26 in
// Abramowitz and Stegun, Handbook of Mathematical Functions.
vec4 erfc(vec4 z) {
  const vec4 t = 1 / (1 + 0.3275911 * z);
  const vec4 p =
      0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)));
  return t * p * exp(-z * z);
}

vec4 activation(vec4 v) {
  if (kind == silu) return v / (1 + exp(-v));
  if (kind == gelu_tanh) {
    // 0.5 (1 + tanh(u)) is sigmoid(2u), which keeps small results exact.
    const float sqrt_8_over_pi = 1.5957691216;
    return v / (1 + exp(-sqrt_8_over_pi * (v + 0.044715 * v * v * v)));
  }
  if (kind == gelu) {
    const float sqrt_half = 0.7071067812;
    const vec4 tail = 0.5 * v * erfc(sqrt_half * abs(v));  // of v = -abs(v), the result itself
    return mix(v - tail, tail, lessThan(v, vec4(0)));
  }
  if (kind == relu) return mix(v, vec4(0), lessThan(v, vec4(0)));  // what is no number stays none
  return 1 / (1 + exp(-v));
}

void main() {
  const uint stride = padded(cols) / 4;
  const uint i = thread_index();
  if (i >= n_rows * stride) return;
  vec4 result = activation(x[i]);
  if (has_up != 0) result *= up[i];
  // sigmoid(0) is not 0, which has to stay behind the rows.
  const uvec4 col = i % stride * 4 + uvec4(0, 1, 2, 3);
  x[i] = mix(vec4(0), result, lessThan(col, uvec4(cols)));
}
