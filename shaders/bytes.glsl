// The four bytes of a word as numbers, the lowest first.

vec4 unsigned_bytes(uint word) {
  return vec4(word & 0xFF, word >> 8 & 0xFF, word >> 16 & 0xFF, word >> 24);
}

vec4 signed_bytes(uint word) {
  const int bytes = int(word);
  return vec4(bitfieldExtract(bytes, 0, 8), bitfieldExtract(bytes, 8, 8),
              bitfieldExtract(bytes, 16, 8), bitfieldExtract(bytes, 24, 8));
}
