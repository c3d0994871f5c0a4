#version 450
// out = x / sqrt(mean(x^2) + eps) * weight; a workgroup per row.

#include "common.glsl"
#include "reduce.glsl"

layout(binding = 0) readonly buffer In {
  float x[];
};
layout(binding = 1) readonly buffer Weight {
  float weight[];
};
layout(binding = 2) buffer Out {
  float y[];
};

layout(push_constant) uniform Push {
  uint cols;
  uint n_rows;
  uint weight_base;
  float eps;
};

void main() {
  if (group_index() >= n_rows) return;
  const uint row = group_index() * padded(cols);
  float sum = 0;
  for (uint i = lane_index(); i < cols; i += workgroup_size) sum += x[row + i] * x[row + i];
  const float scale = inversesqrt(group_add(sum) / float(cols) + eps);
  for (uint i = lane_index(); i < cols; i += workgroup_size) {
    y[row + i] = x[row + i] * scale * weight[weight_base + i];
  }
}
