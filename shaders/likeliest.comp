#version 450
// The k largest elements of each row, in descending order, of equal ones the one further left. A
// workgroup finds those of a chunk of columns; the next pass finds the largest of those that the
// chunks delivered, until there is one chunk.

#include "common.glsl"
#include "ranking.glsl"

layout(constant_id = 2) const uint run = 1;  // elements that are kept sorted: a power of two, >= k

layout(binding = 0) readonly buffer In {
  uint x[];
};
layout(binding = 0) readonly buffer Found {
  uvec2 found[];  // (n_rows, n_cols) a key and its column
};
layout(binding = 1) writeonly buffer Out {
  uvec2 y[];  // (n_rows, n_chunks, k)
};

layout(push_constant) uniform Push {
  uint n_rows;
  uint n_cols;
  uint k;
  uint first_pass;  // x is bound, else `found`
};

const uint chunk = 1024;  // candidate_chunk

shared uvec2 best[chunk];

// A step of a bitonic network over the first n elements: puts those that are `distance` apart in
// descending order, or in ascending order where `ascending` is a bit of their place.
void exchange(uint n, uint distance, uint ascending) {
  for (uint i = lane_index(); i < n / 2; i += workgroup_size) {
    const uint a = i / distance * 2 * distance + i % distance;
    const uint b = a + distance;
    if (precedes(best[b], best[a]) == ((a & ascending) == 0)) {
      const uvec2 other = best[a];
      best[a] = best[b];
      best[b] = other;
    }
  }
  barrier();
}

void main() {
  const uint n_chunks = (n_cols + chunk - 1) / chunk;
  const uint row = group_index() / n_chunks;
  const uint first = group_index() % n_chunks * chunk;
  if (row >= n_rows) return;
  for (uint i = lane_index(); i < chunk; i += workgroup_size) {
    const uint col = first + i;
    uvec2 element = behind_all;
    if (col < n_cols) {
      element = first_pass != 0 ? uvec2(key_of(x[row * padded(n_cols) + col]), col)
                                : found[row * n_cols + col];
    }
    best[i] = element;
  }
  barrier();

  // Sorted runs,
  for (uint size = 2; size <= run; size *= 2) {
    for (uint distance = size / 2; distance > 0; distance /= 2) {
      exchange(chunk, distance, size == run ? 0 : size);
    }
  }
  // of which two become one, of the better half of their elements, until one is left.
  for (uint n = chunk / 2; n >= run; n /= 2) {
    for (uint i = lane_index(); i < n; i += workgroup_size) {
      const uvec2 other = best[n + i / run * run + (run - 1 - i % run)];
      if (precedes(other, best[i])) best[i] = other;
    }
    barrier();
    for (uint distance = run / 2; distance > 0; distance /= 2) exchange(n, distance, 0);
  }
  for (uint i = lane_index(); i < k; i += workgroup_size) y[group_index() * k + i] = best[i];
}
