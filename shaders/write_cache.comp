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
#ifdef CACHE_Q8_0
layout(binding = 2) buffer CacheWords {
  uint cache_words[];
};
#endif

layout(push_constant) uniform Push {
  uint n_rows;
  uint kv_heads;    // of the model
  uint first_head;  // of those bound
  uint n_heads;
  uint n_lanes;
  uint n_spans;     // of a lane
  uint are_values;
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

// Elements i and i + 1 of a head that begins at `head`.
vec2 two_elements(uint head, uint i) {
  return vec2(i < head_dim ? x[head + i] : 0, i + 1 < head_dim ? x[head + i + 1] : 0);
}

#ifdef CACHE_Q8_0
// The scale of 32 elements that begin at `at`: their largest magnitude is 127 steps, and NaN if one
// of them is.
float step_of(uint at) {
  float most = 0;
  for (uint i = 0; i < 32 && !isnan(most); ++i) {
    if (!(abs(x[at + i]) <= most)) most = abs(x[at + i]);
  }
  return most / 127;
}

// Four elements as int8, rounded to the nearest, halves away from zero.
uint pack_steps(uint at, float inverse) {
  uint packed = 0;
  for (uint i = 0; i < 4; ++i) {
    const float steps = x[at + i] * inverse;
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
  const uint from = r * padded(kv_heads * head_dim) + (first_head + head) * head_dim;
  const uint i = piece * piece_elements;
  const uint at_span = (head * n_lanes + rows[r].lane) * n_spans + rows[r].slot / span;
  const uint position = rows[r].slot % span;
#if defined(CACHE_Q8_0)
  const float step_size = step_of(from + i / 32 * 32);
  const float inverse = isinf(1 / step_size) ? 0 : 1 / step_size;
  const uvec4 packed =
      uvec4(pack_steps(from + i, inverse), pack_steps(from + i + 4, inverse),
            pack_steps(from + i + 8, inverse), pack_steps(from + i + 12, inverse));
  if (i % 32 == 0) {
    // Another thread may write the other half of the word at the same time.
    const uint word = scale_word(at_span, i / 32, position);
    const uint bit = scale_bit(position);
    atomicAnd(cache_words[word], ~(0xFFFFu << bit));
    atomicOr(cache_words[word], pack_halves(vec2(step_size, 0)) << bit);
  }
#elif defined(CACHE_F16)
  const uvec4 packed = uvec4(
      pack_halves(two_elements(from, i)), pack_halves(two_elements(from, i + 2)),
      pack_halves(two_elements(from, i + 4)), pack_halves(two_elements(from, i + 6)));
#else
  const uvec4 packed =
      floatBitsToUint(vec4(two_elements(from, i), two_elements(from, i + 2)));
#endif
  cache[at_span * span_pieces +
        (are_values != 0 ? position * pieces + piece : piece * span + position)] = packed;
}
