#version 450
// Rotates the first 2 * n_pairs elements of every head by the batch's angles; in place if the
// same buffer is bound twice. A thread per pair, then one per element that is only copied.

#include "common.glsl"

layout(binding = 0) readonly buffer In {
  float x[];
};
layout(binding = 1) readonly buffer Angles {
  vec2 cos_sin[];  // (rows, n_pairs)
};
layout(binding = 2) buffer Out {
  float y[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint n_heads;
  uint head_dim;
  uint n_pairs;
  uint half_split;  // pairs are (i, i + n_pairs), else (2i, 2i + 1)
};

void main() {
  const uint head_threads = head_dim - n_pairs;
  const uint i = thread_index() % head_threads;
  const uint head = thread_index() / head_threads % n_heads;
  const uint row = thread_index() / (head_threads * n_heads);
  if (row >= n_rows) return;
  const uint at = row * padded(n_heads * head_dim) + head * head_dim;
  if (i >= n_pairs) {
    y[at + n_pairs + i] = x[at + n_pairs + i];
    return;
  }
  const uint first = at + (half_split != 0 ? i : 2 * i);
  const uint second = first + (half_split != 0 ? n_pairs : 1);
  const vec2 angle = cos_sin[row * n_pairs + i];
  const float a = x[first];
  const float b = x[second];
  y[first] = a * angle.x - b * angle.y;
  y[second] = a * angle.y + b * angle.x;
}
