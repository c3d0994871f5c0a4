#version 450
// The delta rule; see DeltaNet (vga/config.h). Columns of a state do not meet: a workgroup takes
// some of a value head of one slot, and walks through the slot's rows. Of a long column several
// lanes keep a part each, so that all of it stays in registers.

#extension GL_EXT_control_flow_attributes : require

#include "common.glsl"
#include "batch.glsl"

layout(constant_id = 2) const uint head_dim = 128;

const uint n_parts = head_dim <= 32    ? 1
                     : head_dim <= 64  ? 2
                     : head_dim <= 128 ? 4
                     : head_dim <= 256 ? 8
                                       : 16;
const uint part_keys = (head_dim + n_parts - 1) / n_parts;
const uint group_cols = workgroup_size / n_parts;
const uint blocks = (head_dim + group_cols - 1) / group_cols;  // of a head's columns
// Keys and columns that there are no elements for.
const uint n_spare = n_parts * part_keys + blocks * group_cols - 2 * head_dim;

layout(binding = 0) readonly buffer Runs {
  Run runs[];
};
layout(binding = 1) readonly buffer Rows {
  uint rows[];  // of all runs
};
layout(binding = 2) readonly buffer Qkv {
  float x[];
};
layout(binding = 3) readonly buffer Decay {
  float decay[];
};
layout(binding = 4) readonly buffer Strength {
  float strength[];
};
layout(binding = 5) buffer State {
  float state[];  // of some slots: what is not ours, then (value heads, keys, values)
};
layout(binding = 6) writeonly buffer Out {
  float y[];
};

layout(push_constant) uniform Push {
  uint n_runs;
  uint first_run;
  uint first_slot;     // that is bound
  uint slot_floats;
  uint first_float;    // of a slot's
  uint first_row;      // of each run
  uint most_rows;
  uint n_key_heads;
  uint n_value_heads;
  uint grouped;        // value heads of a key head follow each other, else they are n_key_heads apart
};

// Of each lane's part: state times key, and what brings keys and queries to their lengths.
shared vec3 found_parts[workgroup_size];
shared float read_parts[workgroup_size];  // state times query

void main() {
  const uint block = group_index() % blocks;
  const uint head = group_index() / blocks % n_value_heads;
  const uint index = group_index() / blocks / n_value_heads;
  if (index >= n_runs) return;
  const Run run = runs[first_run + index];
  if (first_row >= run.n_rows) return;
  const uint end_row = min(run.n_rows, first_row + most_rows);
  const uint key_size = n_key_heads * head_dim;
  const uint value_size = n_value_heads * head_dim;
  const uint x_stride = padded(2 * key_size + value_size);
  const uint key_head = grouped != 0 ? head / (n_value_heads / n_key_heads) : head % n_key_heads;

  const uint group_col = lane_index() % group_cols;
  const uint col = block * group_cols + group_col;
  const uint first_key = lane_index() / group_cols * part_keys;
  const uint n_keys = col < head_dim && first_key < head_dim ? min(part_keys, head_dim - first_key) : 0;
  const uint at = (run.slot - first_slot) * slot_floats + first_float +
                  (head * head_dim + first_key) * head_dim + col;
  const bool is_empty = run.is_first != 0 && first_row == 0;
  float memory[part_keys];
  [[unroll]] for (uint i = 0; i < part_keys; ++i) {
    memory[i] = (n_spare == 0 || i < n_keys) && !is_empty ? state[at + i * head_dim] : 0;
  }

  for (uint r = first_row; r < end_row; ++r) {
    const uint row = rows[run.first + r];
    const uint query_at = row * x_stride + key_head * head_dim + first_key;
    const uint key_at = query_at + key_size;
    float key[part_keys];
    float query[part_keys];
    vec3 sums = vec3(0);
    [[unroll]] for (uint i = 0; i < part_keys; ++i) {
      const bool is_there = n_spare == 0 || i < n_keys;
      key[i] = is_there ? x[key_at + i] : 0;
      query[i] = is_there ? x[query_at + i] : 0;
      sums += vec3(memory[i] * key[i], key[i] * key[i], query[i] * query[i]);
    }
    found_parts[lane_index()] = sums;
    barrier();
    sums = vec3(0);
    for (uint part = 0; part < n_parts; ++part) {
      sums += found_parts[part * group_cols + group_col];
    }
    const float key_factor = inversesqrt(sums.y + 1e-6);
    const float query_factor = inversesqrt((sums.z + 1e-6) * float(head_dim));
    const float kept = decay[row * padded(n_value_heads) + head];
    const float value =
        col < head_dim ? x[row * x_stride + 2 * key_size + head * head_dim + col] : 0;
    const float change = strength[row * padded(n_value_heads) + head] *
                         (value - kept * sums.x * key_factor) * key_factor;
    float read = 0;
    [[unroll]] for (uint i = 0; i < part_keys; ++i) {
      memory[i] = kept * memory[i] + key[i] * change;
      read += memory[i] * query[i];
    }
    read_parts[lane_index()] = read;
    barrier();
    if (first_key == 0 && col < head_dim) {
      read = 0;
      for (uint part = 0; part < n_parts; ++part) read += read_parts[part * group_cols + group_col];
      y[row * padded(value_size) + head * head_dim + col] = read * query_factor;
    }
  }

  [[unroll]] for (uint i = 0; i < part_keys; ++i) {
    if (n_spare == 0 || i < n_keys) state[at + i * head_dim] = memory[i];
  }
}
