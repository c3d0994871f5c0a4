#version 450
// The column of each row's largest element, of equal ones the first; a workgroup per row.

#include "common.glsl"

layout(binding = 0) readonly buffer In {
  float x[];
};
layout(binding = 1) writeonly buffer Out {
  uint columns[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint cols;
};

shared float largest[workgroup_size];
shared uint largest_at[workgroup_size];

void main() {
  const uint row = group_index();
  if (row >= n_rows) return;
  const uint lane = lane_index();
  float best = lowest;
  uint best_at = 0xFFFFFFFF;
  for (uint i = lane; i < cols; i += workgroup_size) {
    const float value = x[row * padded(cols) + i];
    if (value > best || best_at >= cols) {
      best = value;
      best_at = i;
    }
  }
  largest[lane] = best;
  largest_at[lane] = best_at;
  for (uint n = workgroup_size / 2; n > 0; n /= 2) {
    barrier();
    if (lane < n && largest_at[lane + n] < cols) {
      const float value = largest[lane + n];
      const uint at = largest_at[lane + n];
      if (value > largest[lane] || (value == largest[lane] && at < largest_at[lane])) {
        largest[lane] = value;
        largest_at[lane] = at;
      }
    }
  }
  if (lane == 0) columns[row] = largest_at[0];
}
