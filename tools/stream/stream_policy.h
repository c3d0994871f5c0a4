#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/score.h"
#include "vga/vga.h"

namespace vga {

/// Samples that every policy is compared on when one of them is too expensive for each token.
constexpr size_t n_samples = 256;

/// A way to remember a text while reading it, and how well that predicted each next token. Policies
/// read one text in lockstep: run(), then score(), chunk after chunk.
class StreamPolicy {
 public:
  enum class Kind {
    window,     // a window with kept tokens
    full,       // attention over everything, until its context is full
    recompute,  // the last W tokens read afresh for each sample: the expensive reference
  };

  /// `n_tokens` are to be scored; `options` has the session's window and keep, or its context.
  StreamPolicy(const Model& model, Kind kind, const SessionOptions& options, size_t window,
               size_t n_tokens);

  /// Runs tokens [begin, end) of the text. Logits of all of them (end - begin, vocab_size), valid
  /// until the next call; none if this policy needs none or is done. If interrupted they may be
  /// fewer, and are not to be scored.
  std::span<const float> run(std::span<const Token> text, size_t begin, size_t end);
  /// Scores how tokens [begin + 1, end + 1) were predicted by the run before.
  void score(std::span<const Token> text, size_t begin, size_t end);

  Kind kind() const { return kind_; }
  size_t keep() const { return session_.keep(); }
  /// "window", "full", "recompute".
  std::string_view name() const;
  /// "window, 4 kept".
  std::string label() const;

  const Score& total() const { return total_; }
  /// The same on the samples alone.
  const Score& sampled() const { return sampled_; }
  /// One per stretch of W tokens; a policy that samples has as many tokens in it as it took.
  std::span<const Score> stretches() const { return stretches_; }
  /// Perplexity of the last complete stretch.
  std::optional<double> last_stretch() const;
  /// Where perplexity stood after each stretch.
  struct Point {
    size_t tokens;  // read so far
    size_t scored;  // of them
    double perplexity;
    double of_stretch;
  };
  std::vector<Point> curve() const;
  double tokens_per_second() const;
  /// Seconds per token in the median of stretches [first, first + n), which other work on the
  /// machine disturbs less than the mean.
  double seconds_per_token(size_t first, size_t n) const;
  /// Bytes of KV cache in use.
  uint64_t resident_bytes() const;

 private:
  bool is_sample(size_t position) const;
  void add(size_t position, double nll);

  Kind kind_;
  size_t window_;
  size_t n_tokens_;
  Session session_;
  std::vector<Row> rows_;
  std::span<const float> logits_;     // (rows, vocab_size) of the last run
  std::vector<float> sample_logits_;  // (samples in the last chunk, vocab_size)
  Score total_;
  Score sampled_;
  // As long as they will ever be from the beginning: reading takes no more memory as it goes on.
  std::vector<Score> stretches_;
  std::vector<double> seconds_;  // (stretches) time to run them
};

}  // namespace vga
