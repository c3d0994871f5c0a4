#version 450
// softmax(capped(q k^T * scale)) v over what each row sees, page by page with a running maximum.
// Queries of a head group and of neighbouring rows share the keys and values that a workgroup
// reads.

#include "common.glsl"
#include "bytes.glsl"
#include "reduce.glsl"
#include "cap.glsl"
#include "attend_item.glsl"

layout(binding = 1) readonly buffer Q {
  float q[];
};
layout(binding = 2) readonly buffer QKept {
  float q_kept[];
};
layout(binding = 3) readonly buffer Keys {
  uvec4 keys[];
};
layout(binding = 4) readonly buffer Values {
#if defined(CACHE_Q8_0)
  uint values[];
#elif defined(CACHE_F16)
  uvec2 values[];
#else
  uvec4 values[];
#endif
};
#ifdef CACHE_Q8_0
layout(binding = 3) readonly buffer KeyWords {
  uint key_words[];
};
#endif
layout(binding = 5) readonly buffer Views {
  View views[];
};
layout(binding = 6) readonly buffer Tiles {
  Tile tiles[];
};
layout(binding = 7) writeonly buffer Out {
  float results[];
};
layout(binding = 7) writeonly buffer Partials {
  vec4 partials[];
};

// Lanes of a set take neighbouring vectors of a value, sets take different positions.
const uint n_sets = workgroup_size / vectors;  // at least one: heads have up to 512 elements

shared vec4 queries[n_queries * vectors];
// Scores, then e^(score - highest); in the end sums of values.
shared vec4 weights[n_queries * (vectors > page / 4 ? vectors : page / 4)];
shared float highest[n_queries];
shared float total[n_queries];
shared float rescale[n_queries];

// The part of a page that a row sees.
uvec2 visible(View view, uint page_index, bool kept) {
  const uint begin = kept ? 0 : view.begin;
  const uint end = kept ? view.kept_end : view.end;
  const uint first = page_index * page;
  return uvec2(max(begin, first), max(min(end, first + page), first)) - first;
}

vec4 value_at(uint at_page, uint position, uint vector) {
  const uint at = at_page * (page_pieces * piece_elements / 4) + position * vectors + vector;
#if defined(CACHE_Q8_0)
  const uint scales = values[scale_word(at_page, vector / 8, position)] >> scale_bit(position);
  return unpackHalf2x16(scales).x * signed_bytes(values[at]);
#elif defined(CACHE_F16)
  const uvec2 pair = values[at];
  return vec4(unpackHalf2x16(pair.x), unpackHalf2x16(pair.y));
#else
  return uintBitsToFloat(values[at]);
#endif
}

void load_queries(Tile tile, Item item, bool kept) {
  for (uint i = lane_index(); i < n_queries * vectors; i += workgroup_size) {
    const uint query = i / vectors;
    vec4 x = vec4(0);
    if (query < tile.n_rows * item.query_heads) {
      const uint at = query_at(tile, item, query);
      for (uint e = 0; e < 4; ++e) {
        const uint element = i % vectors * 4 + e;
        if (element < head_dim) x[e] = scale * (kept ? q_kept[at + element] : q[at + element]);
      }
    }
    queries[i] = x;
  }
}

void main() {
  if (group_index() >= n_items) return;
  const Item item = item_at(group_index());
  const Tile tile = tiles[item.tile];
  const uint used_queries = tile.n_rows * item.query_heads;
  const View first_view = views[tile.first_row];
  const View last_view = views[tile.first_row + tile.n_rows - 1];
  const uint slot_pages = (item.kv_head * n_slots + tile.slot) * (kept_pages + ring_pages);

  const uint pages = tile.kept_pages + tile.ring_pages;
  const uint first_page = gl_WorkGroupID.z * pages / n_splits;
  const uint end_page = (gl_WorkGroupID.z + 1) * pages / n_splits;

  const uint vector = lane_index() % vectors;
  const uint set = lane_index() / vectors;
  vec4 sums[n_queries];
  for (uint i = 0; i < n_queries; ++i) sums[i] = vec4(0);
  for (uint i = lane_index(); i < n_queries; i += workgroup_size) {
    highest[i] = lowest;
    total[i] = 0;
  }

  for (uint s = first_page; s < end_page; ++s) {
    const bool kept = s < tile.kept_pages;
    if (s == first_page || s == tile.kept_pages) {
      load_queries(tile, item, kept);
      barrier();
    }
    const uint counted = kept ? s : s - tile.kept_pages;
    const uint place =
        slot_pages + (kept ? s : kept_pages + (tile.ring_start + counted) % ring_pages);
    // What any of the rows sees.
    const uint begin = visible(first_view, counted, kept).x;
    const uint end = visible(last_view, counted, kept).y;

    // Scores; a lane takes positions.
    for (uint p = lane_index(); p < page; p += workgroup_size) {
      float scores[n_queries];
      for (uint i = 0; i < n_queries; ++i) scores[i] = 0;
      if (p >= begin && p < end) {
        uint at = place * page_pieces + p;
        for (uint i = 0; i < pieces; ++i, at += page) {
          const uvec4 piece = keys[at];
#if defined(CACHE_Q8_0)
          const uint scales = key_words[scale_word(place, i / 2, p)] >> scale_bit(p);
          const float step_size = unpackHalf2x16(scales).x;
          for (uint k = 0; k < 4; ++k) {
            const vec4 a = step_size * signed_bytes(piece[k]);
            for (uint j = 0; j < n_queries; ++j) {
              scores[j] += dot(queries[j * vectors + 4 * i + k], a);
            }
          }
#elif defined(CACHE_F16)
          const vec4 a = vec4(unpackHalf2x16(piece.x), unpackHalf2x16(piece.y));
          const vec4 b = vec4(unpackHalf2x16(piece.z), unpackHalf2x16(piece.w));
          for (uint j = 0; j < n_queries; ++j) {
            scores[j] += dot(queries[j * vectors + 2 * i], a);
            scores[j] += dot(queries[j * vectors + 2 * i + 1], b);
          }
#else
          const vec4 a = uintBitsToFloat(piece);
          for (uint j = 0; j < n_queries; ++j) scores[j] += dot(queries[j * vectors + i], a);
#endif
        }
      }
      for (uint i = 0; i < n_queries; ++i) {
        const uint row = tile.first_row + min(i / item.query_heads, tile.n_rows - 1);
        const uvec2 seen = visible(views[row], counted, kept);
        const bool sees = i < used_queries && p >= seen.x && p < seen.y;
        weights[i * (page / 4) + p / 4][p % 4] = sees ? capped(scores[i], cap) : lowest;
      }
    }
    barrier();

    // Weights; a team takes queries.
    for (uint i = team_index(); i < n_queries; i += n_teams) {
      float most = lowest;
      for (uint p = team_lane(); p < page; p += team_size) {
        most = max(most, weights[i * (page / 4) + p / 4][p % 4]);
      }
      most = max(team_max(most), highest[i]);
      float sum = 0;
      for (uint p = team_lane(); p < page; p += team_size) {
        const float score = weights[i * (page / 4) + p / 4][p % 4];
        const float weight = score <= lowest ? 0 : exp(score - most);
        weights[i * (page / 4) + p / 4][p % 4] = weight;
        sum += weight;
      }
      sum = team_add(sum);
      if (team_lane() == 0) {
        rescale[i] = exp(highest[i] - most);
        total[i] = total[i] * rescale[i] + sum;
        highest[i] = most;
      }
    }
    barrier();

    // Values; a lane takes a vector of them, and every n_sets-th four positions.
    for (uint i = 0; i < n_queries; ++i) sums[i] *= rescale[i];
    if (set < n_sets) {
      for (uint p = begin / 4 + set; p < (end + 3) / 4; p += n_sets) {
        vec4 v[4];
        for (uint j = 0; j < 4; ++j) {
          // What nobody sees weighs nothing, but need not be a number.
          const uint position = clamp(4 * p + j, begin, end - 1);
          v[j] = value_at(place, position, vector);
        }
        for (uint i = 0; i < n_queries; ++i) {
          const vec4 w = weights[i * (page / 4) + p];
          sums[i] += w.x * v[0] + w.y * v[1] + w.z * v[2] + w.w * v[3];
        }
      }
    }
    barrier();
  }

  // Sets are added one by one, where the weights were.
  for (uint s = 0; s < n_sets; ++s) {
    if (s == set) {
      for (uint i = 0; i < n_queries; ++i) {
        const vec4 before = s == 0 ? vec4(0) : weights[i * vectors + vector];
        weights[i * vectors + vector] = before + sums[i];
      }
    }
    barrier();
  }

  if (n_splits == 1) {
    for (uint i = lane_index(); i < used_queries * head_dim; i += workgroup_size) {
      const uint query = i / head_dim;
      const uint element = i % head_dim;
      results[query_at(tile, item, query) + element] =
          weights[query * vectors + element / 4][element % 4] / total[query] *
          gate_of(tile, item, query, element);
    }
    return;
  }
  for (uint i = lane_index(); i < used_queries * partial_vectors; i += workgroup_size) {
    const uint query = i / partial_vectors;
    const uint part = i % partial_vectors;
    partials[partial_at(group_index(), gl_WorkGroupID.z, query) + part] =
        part == 0 ? vec4(highest[query], total[query], 0, 0)
                  : weights[query * vectors + part - 1];
  }
}
