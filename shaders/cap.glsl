// Bends x to cap * tanh(x / cap), which stays within the cap; a cap of 0 leaves x as it is.

float capped(float x, float cap) {
  if (cap == 0) return x;
  // tanh(z) = (1 - e^-2z) / (1 + e^-2z) for z >= 0. Unlike tanh() of some drivers it overflows
  // nowhere, and what is no number stays none.
  const float e = exp(-2 * abs(x / cap));
  const float bent = cap * (1 - e) / (1 + e);
  return x < 0 ? -bent : bent;
}
