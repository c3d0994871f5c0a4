#version 450
// Adds up what the workgroups that shared an item left; a thread per vector of a query.

#include "common.glsl"
#include "attend_item.glsl"

layout(binding = 1) readonly buffer Partials {
  vec4 partials[];
};
layout(binding = 2) readonly buffer Tiles {
  Tile tiles[];
};
layout(binding = 3) writeonly buffer Out {
  float results[];
};

void main() {
  const uint index = thread_index() / (n_queries * vectors);
  const uint query = thread_index() / vectors % n_queries;
  const uint vector = thread_index() % vectors;
  if (index >= n_items) return;
  const Item item = item_at(index);
  const Tile tile = tiles[item.tile];
  if (query >= tile.n_rows * item.query_heads) return;

  float highest = lowest;
  for (uint s = 0; s < n_splits; ++s) {
    highest = max(highest, partials[partial_at(index, s, query)].x);
  }
  float total = 0;
  vec4 sum = vec4(0);
  for (uint s = 0; s < n_splits; ++s) {
    const uint at = partial_at(index, s, query);
    const float factor = exp(partials[at].x - highest);
    total += factor * partials[at].y;
    sum += factor * partials[at + 1 + vector];
  }
  const uint to = query_at(tile, item, query) + vector * 4;
  for (uint e = 0; e < 4; ++e) {
    const uint element = vector * 4 + e;
    if (element >= head_dim) break;
    results[to + e] = sum[e] / total * gate_of(tile, item, query, element);
  }
}
