#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "compute/device_choice.h"
#include "gguf_image.h"
#include "vga/vga.h"

namespace vga::test {

/// Tokens of a tiny model, other ones for each seed.
inline std::vector<Token> some_tokens(size_t n, size_t seed = 11) {
  std::vector<Token> tokens(n);
  for (size_t i = 0; i < n; ++i) {
    tokens[i] = static_cast<Token>((i * i * 7 + i * 3 + seed) % tiny_vocab);
  }
  return tokens;
}

/// Feeds tokens; the logits of the last one.
inline std::span<const float> prefill(Session& session, std::span<const Token> tokens) {
  session.prefill(tokens);
  return session.logits();
}

/// Logits of every token in a session of its own, fed in chunks of `chunk`: (tokens, vocab_size).
/// On a device small chunks are those of the last tokens alone: whatever it computes, a driver that
/// runs on the CPU takes its milliseconds for each.
inline std::vector<float> logits_in_chunks(const Model& model, const SessionOptions& options,
                                           std::span<const Token> tokens, size_t chunk) {
  constexpr size_t usual = 50;
  constexpr size_t n_last = 12;
  Session session(model, options);
  const bool on_cpu = session.description().starts_with("cpu");
  const size_t n_first = on_cpu || tokens.size() < n_last ? 0 : tokens.size() - n_last;
  std::vector<float> all;
  for (size_t begin = 0; begin < tokens.size();) {
    const size_t end =
        begin < n_first ? std::min(begin + std::max(chunk, usual), n_first + chunk) : begin + chunk;
    std::vector<Row> rows;
    for (size_t i = begin; i < std::min(end, tokens.size()); ++i) {
      rows.push_back({tokens[i], static_cast<int64_t>(i), 0, true});
    }
    const auto logits = session.decode(rows);
    all.insert(all.end(), logits.begin(), logits.end());
    begin = end;
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

/// Whether models load onto a device if no test says otherwise.
inline bool on_device() {
  return wanted_device().name != "cpu";
}

/// How far off an element of a cache may be by rounding, relative to the element or, in q8_0, to
/// the largest of its block. In f32 it is what sums of some hundred products are off by.
inline double rounding_step(DType cache_type) {
  return cache_type == DType::f32 ? 1e-5 : cache_type == DType::f16 ? 1.0 / 2048 : 1.0 / 254;
}

/// How much what is computed of the same tokens in two ways may differ, relative to its size: on
/// the CPU not at all, as each sum has one fixed order. On a device the order depends on how many
/// rows are computed at once and on where they lie in the ring, and now and then an element of the
/// cache is rounded up in one way and down in the other.
inline double allowed_difference(DType cache_type = DType::f16) {
  return on_device() ? 2 * rounding_step(cache_type) : 0;
}

/// Logits of the same tokens computed in two ways, (rows, cols) both. `growth` is how much larger a
/// model makes what rounding comes to.
inline testing::AssertionResult same_logits(std::span<const float> found,
                                            std::span<const float> expected, size_t cols,
                                            DType cache_type = DType::f16, double growth = 1) {
  if (std::ranges::equal(found, expected)) return testing::AssertionSuccess();
  const double error = worst_error(found, expected, cols);
  if (error <= growth * allowed_difference(cache_type)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "relative difference " << error;
}

}  // namespace vga::test
