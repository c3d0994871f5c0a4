#version 450
// gate = 1 / (1 + exp(-(gate + bias))).

#include "common.glsl"

layout(binding = 0) readonly buffer Bias {
  float bias[];
};
layout(binding = 1) buffer Gate {
  float gate[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint cols;
  uint has_bias;
  uint bias_base;
};

void main() {
  const uint row = thread_index() / cols;
  const uint col = thread_index() % cols;
  if (row >= n_rows) return;
  const uint at = row * padded(cols) + col;
  const float x = gate[at] + (has_bias != 0 ? bias[bias_base + col] : 0);
  gate[at] = 1 / (1 + exp(-x));
}
