#version 450
// Writes each row's keys, or values, to where its position lies; a thread per piece.

#include "common.glsl"
#include "batch.glsl"
#include "cache.glsl"

layout(binding = 0) readonly buffer Rows {
  Row rows[];
};
layout(binding = 1) readonly buffer In {
  float x[];
};
layout(binding = 2) writeonly buffer Cache {
  uvec4 cache[];
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint kv_heads;    // of the model
  uint first_head;  // of those bound
  uint n_heads;
  uint n_lanes;
  uint n_spans;     // of a lane
  uint are_values;
};

// Elements i and i + 1 of a head that begins at `head`.
vec2 two_elements(uint head, uint i) {
  return vec2(i < head_dim ? x[head + i] : 0, i + 1 < head_dim ? x[head + i + 1] : 0);
}

void main() {
  const uint piece = thread_index() % pieces;
  const uint head = thread_index() / pieces % n_heads;
  const uint r = thread_index() / (pieces * n_heads);
  if (r >= n_rows) return;
  const uint from = r * padded(kv_heads * head_dim) + (first_head + head) * head_dim;
  const uint i = piece * piece_elements;
#ifdef CACHE_F16
  const uvec4 packed = uvec4(
      packHalf2x16(two_elements(from, i)), packHalf2x16(two_elements(from, i + 2)),
      packHalf2x16(two_elements(from, i + 4)), packHalf2x16(two_elements(from, i + 6)));
#else
  const uvec4 packed =
      floatBitsToUint(vec4(two_elements(from, i), two_elements(from, i + 2)));
#endif
  const uint at_span = (head * n_lanes + rows[r].lane) * n_spans + rows[r].slot / span;
  const uint at = rows[r].slot % span;
  cache[are_values != 0 ? (at_span * span + at) * pieces + piece
                        : (at_span * pieces + piece) * span + at] = packed;
}
