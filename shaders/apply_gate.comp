#version 450
// x *= gate, which is shared by the elements of a head or has one element for each.

#include "common.glsl"

layout(binding = 0) readonly buffer Gate {
  float gate[];
};
layout(binding = 1) buffer X {
  float x[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint cols;
  uint shared_by;  // elements
};

void main() {
  const uint row = thread_index() / cols;
  const uint col = thread_index() % cols;
  if (row >= n_rows) return;
  x[row * padded(cols) + col] *= gate[row * padded(cols / shared_by) + col / shared_by];
}
