// Weights as they lie in the file (runtime/blocks.h), read as 32-bit words: devices need neither
// 8-bit nor 16-bit storage. Rows and blocks may begin in the middle of a word, hence all places in
// `words` are counted in halves of a word.
//
// A row is decoded in units of 8 elements: 4 from first_column(unit) on and 4 from pair_distance
// columns further on, for those are what a word of nibbles holds.

#include "bytes.glsl"

layout(binding = 0) readonly buffer Weights {
  uint words[];
};

uint half_at(uint at) {
  return words[at / 2] >> at % 2 * 16 & 0xFFFF;
}

// 4 bytes.
uint word_at(uint at) {
  const uint word = words[at / 2];
  return at % 2 == 0 ? word : word >> 16 | words[at / 2 + 1] << 16;
}

// 8 bytes, of two words or three.
uvec2 words_at(uint at) {
  const uint i = at / 2;
  const uvec2 pair = uvec2(words[i], words[i + 1]);
  return at % 2 == 0 ? pair : pair >> 16 | uvec2(pair.y, words[i + 2]) << 16;
}

float f16_at(uint at) {
  return unpackHalf2x16(half_at(at)).x;
}

#if defined(WEIGHT_F32) || defined(WEIGHT_F16) || defined(WEIGHT_BF16)

const uint pair_distance = 4;

uint first_column(uint unit) {
  return unit * 8;
}

#ifdef WEIGHT_F32
const uint block_halves = 2;

float element_at(uint at) {
  return uintBitsToFloat(words[at / 2]);
}
void elements_at(uint at, out vec4 a, out vec4 b) {
  const uint i = at / 2;
  a = uintBitsToFloat(uvec4(words[i], words[i + 1], words[i + 2], words[i + 3]));
  b = uintBitsToFloat(uvec4(words[i + 4], words[i + 5], words[i + 6], words[i + 7]));
}
#else
const uint block_halves = 1;

#ifdef WEIGHT_F16
float element_at(uint at) {
  return f16_at(at);
}
vec4 four_elements(uvec2 pair) {
  return vec4(unpackHalf2x16(pair.x), unpackHalf2x16(pair.y));
}
#else
float element_at(uint at) {
  return uintBitsToFloat(half_at(at) << 16);
}
vec4 four_elements(uvec2 pair) {
  return uintBitsToFloat(uvec4(pair.x << 16, pair.x & 0xFFFF0000, pair.y << 16, pair.y & 0xFFFF0000));
}
#endif

void elements_at(uint at, out vec4 a, out vec4 b) {
  a = four_elements(words_at(at));
  b = four_elements(words_at(at + 4));
}
#endif

// `row` is where the row begins; elements beyond its end are zero.
void decode(uint row, uint unit, uint cols, out vec4 a, out vec4 b) {
  const uint column = first_column(unit);
  const uint at = row + column * block_halves;
  if (column + 8 <= cols) {
    elements_at(at, a, b);
    return;
  }
  a = vec4(0);
  b = vec4(0);
  for (uint i = 0; i < min(4, cols - column); ++i) a[i] = element_at(at + i * block_halves);
  for (uint i = 4; i < cols - column; ++i) b[i - 4] = element_at(at + i * block_halves);
}

#elif defined(WEIGHT_Q8_0)

const uint block_halves = 17;
const uint pair_distance = 4;

uint first_column(uint unit) {
  return unit * 8;
}

void decode(uint row, uint unit, uint cols, out vec4 a, out vec4 b) {
  const uint block = row + unit / 4 * block_halves;
  const float d = f16_at(block);
  const uvec2 q = words_at(block + 1 + unit % 4 * 4);
  a = d * signed_bytes(q.x);
  b = d * signed_bytes(q.y);
}

#elif defined(WEIGHT_Q4_0) || defined(WEIGHT_Q4_1) || defined(WEIGHT_Q5_0) || defined(WEIGHT_Q5_1)

#if defined(WEIGHT_Q4_1) || defined(WEIGHT_Q5_1)
#define HAS_MINIMUM
const uint scale_halves = 2;
#else
const uint scale_halves = 1;
#endif
#if defined(WEIGHT_Q5_0) || defined(WEIGHT_Q5_1)
#define HAS_FIFTH_BIT
const uint high_halves = 2;
#else
const uint high_halves = 0;
#endif

const uint block_halves = scale_halves + high_halves + 8;
const uint pair_distance = 16;

uint first_column(uint unit) {
  return unit / 4 * 32 + unit % 4 * 4;
}

// Each of the four lowest bits as the fifth bit of a byte.
uint fifth_bits(uint bits) {
  return (bits & 1) << 4 | (bits & 2) << 11 | (bits & 4) << 18 | (bits & 8) << 25;
}

void decode(uint row, uint unit, uint cols, out vec4 a, out vec4 b) {
  const uint block = row + unit / 4 * block_halves;
  const uint part = unit % 4;
  const uint nibbles = word_at(block + scale_halves + high_halves + part * 2);
  uint low = nibbles & 0x0F0F0F0F;
  uint high = nibbles >> 4 & 0x0F0F0F0F;
#ifdef HAS_FIFTH_BIT
  const uint bits = word_at(block + scale_halves) >> part * 4;
  low |= fifth_bits(bits);
  high |= fifth_bits(bits >> 16);
  const float zero = 16;
#else
  const float zero = 8;
#endif
#ifdef HAS_MINIMUM
  const vec2 scale_min = unpackHalf2x16(word_at(block));
  a = scale_min.x * unsigned_bytes(low) + scale_min.y;
  b = scale_min.x * unsigned_bytes(high) + scale_min.y;
#else
  const float d = f16_at(block);
  a = d * (unsigned_bytes(low) - zero);
  b = d * (unsigned_bytes(high) - zero);
#endif
}

#elif defined(WEIGHT_Q4_K) || defined(WEIGHT_Q5_K)

#ifdef WEIGHT_Q5_K
const uint high_words = 8;
#else
const uint high_words = 0;
#endif

const uint block_halves = 2 * (4 + high_words + 32);
const uint pair_distance = 32;

uint first_column(uint unit) {
  return unit / 8 * 64 + unit % 8 * 4;
}

// Blocks are whole words, as are rows then.
void decode(uint row, uint unit, uint cols, out vec4 a, out vec4 b) {
  const uint block = (row + unit / 32 * block_halves) / 2;
  const uint group = unit % 32 / 8 * 2;  // and the next one
  const uint part = unit % 8;
  const vec2 scale_min = unpackHalf2x16(words[block]);

  // Six bits of scale and of minimum for both groups.
  const uint shift = group % 4 * 8;
  const uint low_scales = words[block + 1] >> shift;
  const uint low_mins = words[block + 2] >> shift;
  uvec2 scale = uvec2(low_scales, low_scales >> 8);
  uvec2 minimum = uvec2(low_mins, low_mins >> 8);
  if (group < 4) {
    scale &= 63;
    minimum &= 63;
  } else {
    const uint rest = words[block + 3] >> shift;
    scale = (uvec2(rest, rest >> 8) & 15) | (scale >> 6 & 3) << 4;
    minimum = (uvec2(rest, rest >> 8) >> 4 & 15) | (minimum >> 6 & 3) << 4;
  }
  const vec2 scales = scale_min.x * vec2(scale);
  const vec2 minimums = scale_min.y * vec2(minimum);

  const uint nibbles = words[block + 4 + high_words + group * 4 + part];
  uint low = nibbles & 0x0F0F0F0F;
  uint high = nibbles >> 4 & 0x0F0F0F0F;
#ifdef WEIGHT_Q5_K
  const uint bits = words[block + 4 + part] >> group;
  low |= (bits & 0x01010101) << 4;
  high |= (bits >> 1 & 0x01010101) << 4;
#endif
  a = scales.x * unsigned_bytes(low) - minimums.x;
  b = scales.y * unsigned_bytes(high) - minimums.y;
}

#elif defined(WEIGHT_Q6_K)

const uint block_halves = 105;
const uint pair_distance = 64;

uint first_column(uint unit) {
  return unit / 8 * 32 + unit / 16 * 64 + unit % 8 * 4;
}

void decode(uint row, uint unit, uint cols, out vec4 a, out vec4 b) {
  const uint block = row + unit / 32 * block_halves;
  const uint half_block = unit % 32 / 16;
  const uint quarter = unit % 16 / 8;  // and the next but one
  const uint part = unit % 8;
  const uint nibbles = word_at(block + half_block * 32 + quarter * 16 + part * 2);
  const uint bits = word_at(block + 64 + half_block * 16 + part * 2) >> quarter * 2;
  const uint low = (nibbles & 0x0F0F0F0F) | (bits & 0x03030303) << 4;
  const uint high = (nibbles >> 4 & 0x0F0F0F0F) | (bits >> 4 & 0x03030303) << 4;

  const uint group = half_block * 8 + quarter * 2 + part / 4;  // and the one 4 further on
  const float d = f16_at(block + 104);
  const int shift = int(group % 2 * 8);
  const int scale_a = bitfieldExtract(int(half_at(block + 96 + group / 2)), shift, 8);
  const int scale_b = bitfieldExtract(int(half_at(block + 98 + group / 2)), shift, 8);
  a = d * scale_a * (unsigned_bytes(low) - 32);
  b = d * scale_b * (unsigned_bytes(high) - 32);
}

#endif

uint units(uint cols) {
  return (cols + 7) / 8;
}
