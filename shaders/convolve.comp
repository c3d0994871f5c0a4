#version 450
// x = silu of the causal convolution of each column with its taps. A thread walks down a column of
// one slot; what the next batch's rows will meet stays in the state.

#include "common.glsl"
#include "batch.glsl"

layout(constant_id = 2) const uint n_taps = 4;

layout(binding = 0) readonly buffer Runs {
  Run runs[];
};
layout(binding = 1) readonly buffer Rows {
  uint rows[];  // of all runs
};
layout(binding = 2) readonly buffer Taps {
  float taps[];  // (part_cols, n_taps)
};
layout(binding = 3) buffer State {
  float state[];  // of some slots: (n_taps - 1, cols), then what is not ours
};
layout(binding = 4) buffer X {
  float x[];
};

layout(push_constant) uniform Push {
  uint n_runs;
  uint first_run;
  uint first_slot;   // that is bound
  uint slot_floats;
  uint cols;         // of x
  uint first_col;    // of those whose taps are bound
  uint part_cols;
  uint taps_base;
};

void main() {
  const uint part_col = thread_index() % part_cols;
  if (thread_index() / part_cols >= n_runs) return;
  const Run run = runs[first_run + thread_index() / part_cols];
  const uint col = first_col + part_col;
  const uint at = (run.slot - first_slot) * slot_floats + col;

  float weights[n_taps];
  float inputs[n_taps];
  for (uint tap = 0; tap < n_taps; ++tap) weights[tap] = taps[taps_base + part_col * n_taps + tap];
  for (uint tap = 0; tap + 1 < n_taps; ++tap) {
    inputs[tap] = run.is_first != 0 ? 0 : state[at + tap * cols];
  }
  for (uint i = 0; i < run.n_rows; ++i) {
    const uint place = rows[run.first + i] * padded(cols) + col;
    inputs[n_taps - 1] = x[place];
    float sum = 0;
    for (uint tap = 0; tap < n_taps; ++tap) sum += inputs[tap] * weights[tap];
    x[place] = sum / (1 + exp(-sum));
    for (uint tap = 0; tap + 1 < n_taps; ++tap) inputs[tap] = inputs[tap + 1];
  }
  for (uint tap = 0; tap + 1 < n_taps; ++tap) state[at + tap * cols] = inputs[tap];
}
