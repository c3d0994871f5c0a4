// How a layer's cache lies in its two buffers, in pieces of 16 bytes. Heads come first, so that a
// range of heads can be bound where a whole buffer is more than the device binds.
//
//   keys:   (n_kv_heads, n_slots, n_pages, pieces, page)  neighbouring lanes of a workgroup compute
//                                                         scores of neighbouring positions
//   values: (n_kv_heads, n_slots, n_pages, page, pieces)  neighbouring lanes sum neighbouring elements
//
// In q8_0 the pieces of a page are followed by its scales, f16: (padded_dim / 32, page).

const uint page = 256;  // page_positions

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
const uint page_pieces = pieces * page + padded_dim / 32 * page / 8;

// The word, and the bit in it, where the scale of 32 elements of a position begins.
uint scale_word(uint at_page, uint block, uint position) {
  return at_page * page_pieces * 4 + pieces * page * 4 + (block * page + position) / 2;
}
uint scale_bit(uint position) {
  return position % 2 * 16;
}
#else
const uint page_pieces = pieces * page;
#endif
