// Elements in descending order, of equal ones the one further left first. They are compared as keys:
// integers in the order of the floats, for drivers need not keep NaN.

// NaN comes before all, both zeros are equal. No key is 0.
uint key_of(uint bits) {
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return ~0u;
  if ((bits & 0x7FFFFFFF) == 0) return 0x80000000;
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000;
}

// Of two elements (key, column).
bool precedes(uvec2 a, uvec2 b) {
  return a.x > b.x || (a.x == b.x && a.y < b.y);
}

const uvec2 behind_all = uvec2(0, ~0u);
