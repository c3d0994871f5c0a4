// What attend.comp and attend_merge.comp agree on. An item is a tile of rows and a block of query
// heads of one KV head; its queries, of rows times heads, are at most n_queries.

#include "batch.glsl"
#include "cache.glsl"

layout(constant_id = 3) const uint n_queries = 1;  // that a workgroup takes

const uint vectors = padded_dim / 4;

layout(push_constant) uniform Push {
  uint n_items;
  uint n_splits;    // workgroups that share the pages of an item
  uint group_size;  // query heads of a KV head
  uint first_head;  // of the KV heads bound
  uint n_heads;     // KV heads bound
  uint kv_heads;    // of the model
  uint n_slots;
  uint kept_pages;  // of a slot
  uint ring_pages;
  float scale;
  float cap;  // of scores; 0: there is none
  uint first_tile;
  uint gate_width;  // elements that share a gate; 0: there is none
};

layout(binding = 0) readonly buffer Gate {
  float gate[];  // of the outputs
};

struct Item {
  uint tile;
  uint kv_head;     // among those bound
  uint query_head;  // the first one
  uint query_heads;
};

Item item_at(uint index) {
  const uint blocks = (group_size + n_queries - 1) / n_queries;  // of a KV head
  const uint head = index / blocks % n_heads;
  const uint offset = index % blocks * n_queries;
  return Item(first_tile + index / (blocks * n_heads), head, (first_head + head) * group_size + offset,
              min(n_queries, group_size - offset));
}

uint row_of(Tile tile, Item item, uint query) {
  return tile.first_row + query / item.query_heads;
}
// Where a query's head begins in its row.
uint col_of(Item item, uint query) {
  return (item.query_head + query % item.query_heads) * head_dim;
}
// The same in (rows, query heads * head_dim).
uint query_at(Tile tile, Item item, uint query) {
  const uint cols = kv_heads * group_size * head_dim;
  return row_of(tile, item, query) * padded(cols) + col_of(item, query);
}

float gate_of(Tile tile, Item item, uint query, uint element) {
  if (gate_width == 0) return 1;
  const uint gates = kv_heads * group_size * head_dim / gate_width;
  return gate[row_of(tile, item, query) * padded(gates) +
              (col_of(item, query) + element) / gate_width];
}

// A query's sum over the pages of one workgroup: highest score, total weight, padding, then values.
const uint partial_vectors = vectors + 1;
uint partial_at(uint item, uint split_index, uint query) {
  return ((item * n_splits + split_index) * n_queries + query) * partial_vectors;
}
