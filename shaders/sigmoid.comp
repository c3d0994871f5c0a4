#version 450
// x = 1 / (1 + exp(-x)).

#include "common.glsl"

layout(binding = 0) buffer X {
  float x[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint cols;
};

void main() {
  const uint row = thread_index() / cols;
  if (row >= n_rows) return;
  const uint at = row * padded(cols) + thread_index() % cols;
  x[at] = 1 / (1 + exp(-x[at]));
}
