#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "vga.h"

namespace vga::test {

/// Feeds tokens; the logits of the last one.
inline std::span<const float> prefill(Session& session, std::span<const Token> tokens) {
  session.prefill(tokens);
  return session.logits();
}

/// Logits of every token in a session of its own, fed in chunks of `chunk`: (tokens, vocab_size).
inline std::vector<float> logits_in_chunks(const Model& model, const SessionOptions& options,
                                           std::span<const Token> tokens, size_t chunk) {
  Session session(model, options);
  std::vector<float> all;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    std::vector<Row> rows;
    for (size_t i = begin; i < std::min(begin + chunk, tokens.size()); ++i) {
      rows.push_back({tokens[i], static_cast<int64_t>(i), 0, true});
    }
    const auto logits = session.decode(rows);
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

/// The largest relative error of a row's vector. Both are (rows, cols).
inline double worst_error(std::span<const float> found, std::span<const float> expected,
                          size_t cols) {
  EXPECT_EQ(found.size(), expected.size());
  if (found.size() != expected.size()) return INFINITY;
  double worst = 0;
  for (size_t r = 0; r < expected.size(); r += cols) {
    double error = 0;
    double size = 0;
    for (size_t i = r; i < r + cols; ++i) {
      error += std::pow(double{found[i]} - expected[i], 2);
      size += std::pow(double{expected[i]}, 2);
    }
    worst = std::max(worst, std::sqrt(error / size));
  }
  return worst;
}

}  // namespace vga::test
