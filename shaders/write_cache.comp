#version 450
// Writes each row's keys, or values times their gate, to where its position lies; a thread per
// piece.

#include "common.glsl"
#include "batch.glsl"
#include "cache.glsl"

layout(binding = 0) readonly buffer Places {
  Place places[];
};
layout(binding = 1) readonly buffer In {
  float x[];
};
layout(binding = 2) readonly buffer Gate {
  float gate[];
};
layout(binding = 3) writeonly buffer Cache {
  uvec4 cache[];
};
#ifdef CACHE_Q8_0
layout(binding = 3) buffer CacheWords {
  uint cache_words[];
};
#endif

layout(push_constant) uniform Push {
  uint n_rows;
  uint kv_heads;    // of the model
  uint first_head;  // of those bound
  uint n_heads;
  uint n_slots;
  uint n_pages;     // of a slot
  uint are_values;
  uint gate_width;  // elements that share a gate; 0: there is none
};

// Rounded to what a half can hold, the nearest, ties to even: packHalf2x16 may cut off instead.
float nearest_half(float x) {
  const uint bits = floatBitsToUint(x);
  const bool finite = (bits >> 23 & 0xFF) != 0xFF;
  return finite ? uintBitsToFloat((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFFu) : x;
}
uint pack_halves(vec2 x) {
  return packHalf2x16(vec2(nearest_half(x.x), nearest_half(x.y)));
}

// A column of a row.
float element(uint row, uint col) {
  const uint cols = kv_heads * head_dim;
  const float value = x[row * padded(cols) + col];
  if (gate_width == 0) return value;
  return value * gate[row * padded(cols / gate_width) + col / gate_width];
}

// Elements i and i + 1 of a head that begins at `col`.
vec2 two_elements(uint row, uint col, uint i) {
  return vec2(i < head_dim ? element(row, col + i) : 0,
              i + 1 < head_dim ? element(row, col + i + 1) : 0);
}

#ifdef CACHE_Q8_0
// The scale of 32 elements from `col` on: their largest magnitude is 127 steps, and NaN if one of
// them is.
float step_of(uint row, uint col) {
  float most = 0;
  for (uint i = 0; i < 32 && !isnan(most); ++i) {
    const float magnitude = abs(element(row, col + i));
    if (!(magnitude <= most)) most = magnitude;
  }
  return most / 127;
}

// Four elements as int8, rounded to the nearest, halves away from zero.
uint pack_steps(uint row, uint col, float inverse) {
  uint packed = 0;
  for (uint i = 0; i < 4; ++i) {
    const float steps = element(row, col + i) * inverse;
    const float whole = floor(abs(steps));
    const float rounded = min(whole + (abs(steps) - whole >= 0.5 ? 1 : 0), 127);
    packed |= (uint(int(sign(steps) * rounded)) & 0xFF) << 8 * i;
  }
  return packed;
}
#endif

void main() {
  const uint piece = thread_index() % pieces;
  const uint head = thread_index() / pieces % n_heads;
  const uint r = thread_index() / (pieces * n_heads);
  if (r >= n_rows) return;
  const uint col = (first_head + head) * head_dim;
  const uint i = piece * piece_elements;
  const uint at_page = (head * n_slots + places[r].slot) * n_pages + places[r].position / page;
  const uint position = places[r].position % page;
#if defined(CACHE_Q8_0)
  const float step_size = step_of(r, col + i / 32 * 32);
  const float inverse = isinf(1 / step_size) ? 0 : 1 / step_size;
  const uvec4 packed =
      uvec4(pack_steps(r, col + i, inverse), pack_steps(r, col + i + 4, inverse),
            pack_steps(r, col + i + 8, inverse), pack_steps(r, col + i + 12, inverse));
  if (i % 32 == 0) {
    // Another thread may write the other half of the word at the same time.
    const uint word = scale_word(at_page, i / 32, position);
    const uint bit = scale_bit(position);
    atomicAnd(cache_words[word], ~(0xFFFFu << bit));
    atomicOr(cache_words[word], pack_halves(vec2(step_size, 0)) << bit);
  }
#elif defined(CACHE_F16)
  const uvec4 packed = uvec4(
      pack_halves(two_elements(r, col, i)), pack_halves(two_elements(r, col, i + 2)),
      pack_halves(two_elements(r, col, i + 4)), pack_halves(two_elements(r, col, i + 6)));
#else
  const uvec4 packed =
      floatBitsToUint(vec4(two_elements(r, col, i), two_elements(r, col, i + 2)));
#endif
  cache[at_page * page_pieces +
        (are_values != 0 ? position * pieces + piece : piece * page + position)] = packed;
}
