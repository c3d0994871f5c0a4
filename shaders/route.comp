#version 450
// Chooses the experts of each row by its logits, and what each of them weighs; see Experts
// (vga/config.h). A workgroup a row.

#include "common.glsl"
#include "ranking.glsl"
#include "reduce.glsl"

layout(binding = 0) readonly buffer In {
  float logits[];
};
layout(binding = 1) readonly buffer Bias {
  float bias[];
};
layout(binding = 2) writeonly buffer Out {
  float y[];  // (rows, 2 * n_used) experts, ascending, then weights
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint n_experts;
  uint n_used;
  uint of_each;     // a probability is an expert's own, else it is one of them all
  uint has_bias;    // that counts in the choice, else anything is bound
  uint bias_base;
  uint normalised;
  float scale;
};

const uint max_used = 64;  // max_used_experts

shared uvec2 best[workgroup_size];
shared uint chosen[max_used];
shared float probabilities[max_used];  // of those

// Of the row, where probabilities are of all experts.
float highest = 0;
float total = 1;

float probability(float logit) {
  return of_each != 0 ? 1 / (1 + exp(-logit)) : exp(logit - highest) / total;
}

// The first of all elements that come behind the last one.
uvec2 next(uint first, bool has_last, uvec2 last) {
  uvec2 found = behind_all;
  for (uint i = lane_index(); i < n_experts; i += workgroup_size) {
    const float logit = logits[first + i];
    // Without a bias probabilities are in the order of the logits.
    const float rank = has_bias != 0 ? probability(logit) + bias[bias_base + i] : logit;
    const uvec2 element = uvec2(key_of(floatBitsToUint(rank)), i);
    if ((!has_last || precedes(last, element)) && precedes(element, found)) found = element;
  }
  barrier();  // until the last result was read
  best[lane_index()] = found;
  for (uint n = workgroup_size / 2; n > 0; n /= 2) {
    barrier();
    if (lane_index() < n && precedes(best[lane_index() + n], best[lane_index()])) {
      best[lane_index()] = best[lane_index() + n];
    }
  }
  barrier();
  return best[0];
}

void main() {
  const uint row = group_index();
  if (row >= n_rows) return;
  const uint first = row * padded(n_experts);
  if (of_each == 0) {
    float most = lowest;
    for (uint i = lane_index(); i < n_experts; i += workgroup_size) {
      most = max(most, logits[first + i]);
    }
    highest = group_max(most);
    float sum = 0;
    for (uint i = lane_index(); i < n_experts; i += workgroup_size) {
      sum += exp(logits[first + i] - highest);
    }
    total = group_add(sum);
  }

  uvec2 last = behind_all;
  for (uint used = 0; used < n_used; ++used) {
    last = next(first, used > 0, last);
    if (lane_index() == 0) {
      chosen[used] = last.y;
      probabilities[used] = probability(logits[first + last.y]);
    }
  }
  barrier();
  if (lane_index() >= n_used) return;
  uint place = 0;
  float sum = 0;
  for (uint i = 0; i < n_used; ++i) {
    if (chosen[i] < chosen[lane_index()]) ++place;
    sum += probabilities[i];
  }
  const uint at = row * padded(2 * n_used) + place;
  y[at] = float(chosen[lane_index()]);
  y[at + n_used] = probabilities[lane_index()] * scale / (normalised != 0 ? sum : 1);
}
