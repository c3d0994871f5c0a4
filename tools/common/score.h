#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "vga/candidate.h"
#include "vga/token.h"

namespace vga {

/// -log softmax(logits)[target], in double. Throws NotFinite if no number comes out.
inline double negative_log_likelihood(std::span<const float> logits, Token target) {
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  const double nll = std::log(sum) + max - logits[static_cast<size_t>(target)];
  check_finite(static_cast<float>(nll));
  return nll;
}

/// Sums of nll and nll^2 over the scored tokens.
struct Score {
  size_t tokens = 0;
  double sum = 0;
  double sum_of_squares = 0;

  void add(double nll) {
    ++tokens;
    sum += nll;
    sum_of_squares += nll * nll;
  }
  double mean() const { return sum / static_cast<double>(tokens); }
  double perplexity() const { return std::exp(mean()); }
  /// Standard error of the mean, carried over to the perplexity.
  double error() const {
    const auto n = static_cast<double>(tokens);
    const double variance = std::max(0.0, sum_of_squares / n - mean() * mean());
    return tokens > 1 ? perplexity() * std::sqrt(variance / (n - 1)) : 0;
  }
};

}  // namespace vga
