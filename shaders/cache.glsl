// How a layer's cache lies in its two buffers, in pieces of 16 bytes. Heads come first, so that a
// range of heads can be bound where a whole buffer is more than the device binds.
//
//   keys:   (n_kv_heads, n_lanes, n_spans, pieces, span)  neighbouring lanes of a workgroup compute
//                                                         scores of neighbouring positions
//   values: (n_kv_heads, n_lanes, n_spans, span, pieces)  neighbouring lanes sum neighbouring elements

const uint span = 256;  // cache_span

#ifdef CACHE_F16
const uint piece_elements = 8;
#else
const uint piece_elements = 4;
#endif

layout(constant_id = 2) const uint head_dim = 64;
const uint padded_dim = (head_dim + 15) / 16 * 16;  // of a head in memory; the rest is zero
const uint pieces = padded_dim / piece_elements;
