#pragma once

#include <span>

#include "vga/token.h"

namespace vga {

/// A token that may come next.
struct Candidate {
  Token token;
  float logit;
};

/// A total order, so that what is chosen depends on nothing but the numbers: higher logits first,
/// of equal ones the lower id. What is no number comes before all, so that nobody overlooks it.
bool likelier(const Candidate& a, const Candidate& b);

/// Fills `likeliest` with the first of all tokens in that order. `logits` (vocab_size) has at least
/// as many elements.
void find_likeliest(std::span<const float> logits, std::span<Candidate> likeliest);

/// Throws NotFinite if `logit` is. That of the first of all tokens tells of them all; -infinity
/// behind it is a token that never comes.
void check_finite(float logit);

}  // namespace vga
