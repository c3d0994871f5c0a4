#version 450
// Sorts the experts of all rows by expert: where each expert's begin, and where they end, then the
// pairs of a row and one of its experts, as row * n_used + index. A thread an expert.

#include "common.glsl"

layout(binding = 0) readonly buffer Routed {
  float routed[];  // (rows, 2 * n_used) experts, then weights
};
layout(binding = 1) writeonly buffer Out {
  uint groups[];  // (n_experts + 1), (n_rows * n_used)
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint n_used;
  uint n_experts;
};

uint expert_of(uint pair) {
  return uint(routed[pair / n_used * padded(2 * n_used) + pair % n_used]);
}

void main() {
  const uint expert = thread_index();
  if (expert >= n_experts) return;
  uint first = 0;
  for (uint pair = 0; pair < n_rows * n_used; ++pair) {
    if (expert_of(pair) < expert) ++first;
  }
  groups[expert] = first;
  uint end = first;
  for (uint pair = 0; pair < n_rows * n_used; ++pair) {
    if (expert_of(pair) == expert) groups[n_experts + 1 + end++] = pair;
  }
  if (expert + 1 == n_experts) groups[n_experts] = end;
}
