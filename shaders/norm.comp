#version 450
// Normalises groups of columns: x / sqrt(mean(x^2) + eps) * weight, or with the mean subtracted
// first; then adds a bias. A workgroup per group; in place if the same buffer is bound twice.

#include "common.glsl"
#include "reduce.glsl"

layout(binding = 0) readonly buffer In {
  float x[];
};
layout(binding = 1) readonly buffer Weight {
  float weight[];
};
layout(binding = 2) readonly buffer Bias {
  float bias[];
};
layout(binding = 3) buffer Out {
  float y[];
};

layout(push_constant) uniform Push {
  uint cols;         // of a group
  uint row_groups;   // groups in a row
  uint n_groups;
  uint weight_base;
  uint has_bias;     // else anything is bound
  uint bias_base;
  uint centred;      // the mean is subtracted
  float eps;
};

void main() {
  if (group_index() >= n_groups) return;
  const uint first =
      group_index() / row_groups * padded(row_groups * cols) + group_index() % row_groups * cols;
  float mean = 0;
  if (centred != 0) {
    float sum = 0;
    for (uint i = lane_index(); i < cols; i += workgroup_size) sum += x[first + i];
    mean = group_add(sum) / float(cols);
  }
  float squares = 0;
  for (uint i = lane_index(); i < cols; i += workgroup_size) {
    const float part = x[first + i] - mean;
    squares += part * part;
  }
  const float factor = inversesqrt(group_add(squares) / float(cols) + eps);
  for (uint i = lane_index(); i < cols; i += workgroup_size) {
    const float normal = (x[first + i] - mean) * factor * weight[weight_base + i];
    y[first + i] = has_bias != 0 ? normal + bias[bias_base + i] : normal;
  }
}
