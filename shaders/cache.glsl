// How a layer's cache lies in its two buffers, in pieces of 16 bytes. Heads come first, so that a
// range of heads can be bound where a whole buffer is more than the device binds.
//
//   keys:   (n_kv_heads, n_lanes, n_spans, pieces, span)  neighbouring lanes of a workgroup compute
//                                                         scores of neighbouring positions
//   values: (n_kv_heads, n_lanes, n_spans, span, pieces)  neighbouring lanes sum neighbouring elements
//
// In q8_0 the pieces of a span are followed by its scales, f16: (padded_dim / 32, span).

const uint span = 256;  // cache_span

#if defined(CACHE_Q8_0)
const uint piece_elements = 16;
#elif defined(CACHE_F16)
const uint piece_elements = 8;
#else
const uint piece_elements = 4;
#endif

layout(constant_id = 2) const uint head_dim = 64;
const uint padded_dim = (head_dim + 15) / 16 * 16;  // of a head in memory; the rest is zero
const uint pieces = padded_dim / piece_elements;

#ifdef CACHE_Q8_0
const uint span_pieces = pieces * span + padded_dim / 32 * span / 8;

// The word, and the bit in it, where the scale of 32 elements of a position begins.
uint scale_word(uint at_span, uint block, uint position) {
  return at_span * span_pieces * 4 + pieces * span * 4 + (block * span + position) / 2;
}
uint scale_bit(uint position) {
  return position % 2 * 16;
}
#else
const uint span_pieces = pieces * span;
#endif
