#pragma once

#include <cstdint>
#include <deque>
#include <random>
#include <span>
#include <unordered_map>
#include <vector>

#include "vga/candidate.h"

namespace vga {

/// What is added to the logit of a token wherever it could come.
struct LogitBias {
  Token token;
  float bias;  // -100 to 100
};

/// How the next token is chosen. Applied in this order, which is llama.cpp's: biases, penalties,
/// top-k, top-p, min-p, temperature; what is left is renormalised and drawn from.
struct SamplerOptions {
  float temperature = 0.8f;  // 0 takes the likeliest token always (greedy)
  size_t top_k = 40;         // keep the k likeliest; 0 keeps all
  float top_p = 0.95f;       // keep the smallest set with this much probability; 1 keeps all
  float min_p = 0.05f;       // drop what is less likely than this share of the likeliest; 0 is off
  float repeat_penalty = 1;  // > 1 makes recent tokens less likely (Keskar et al. 2019); 1 is off
  size_t repeat_last = 64;   // how many recent tokens that concerns
  float presence_penalty = 0;   // taken off the logits of tokens that came before, -2 to 2
  float frequency_penalty = 0;  // the same for each time that they came (OpenAI's definition)
  std::vector<LogitBias> logit_bias = {};
  uint64_t seed = 0;
};

/// An Error naming the option and its range if one makes no sense (negative, NaN).
void validate(const SamplerOptions& options);

/// Draws tokens. The same options and the same logits give the same tokens.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);

  const SamplerOptions& options() const { return options_; }
  /// How many of the likeliest tokens the choice depends on; 0: on all logits.
  size_t n_candidates() const;
  /// Chooses from logits (vocab_size); ties go to the lower id. Does not remember the choice. An
  /// Error if a token that is penalized or biased is none of them, NotFinite if any logit is NaN or
  /// infinite; -infinity is a token that never comes, unless all are.
  Token sample(std::span<const float> logits);
  /// The same from the likeliest tokens alone, in the order of find_likeliest(): n_candidates() of
  /// them, or all there are.
  Token sample(std::span<const Candidate> likeliest);
  /// Remembers a token, chosen or given, for the penalties.
  void accept(Token token);

 private:
  size_t n_kept() const { return options_.temperature == 0 ? 1 : options_.top_k; }
  bool counts_tokens() const;
  bool changes_logits() const;
  std::span<const float> changed(std::span<const float> logits);

  SamplerOptions options_;
  std::mt19937_64 random_;
  std::deque<Token> recent_;                // the last repeat_last
  std::unordered_map<Token, size_t> seen_;  // how often each came, of all
  std::vector<float> changed_;              // (vocab_size)
  std::vector<Candidate> candidates_;       // what is left of the vocabulary
};

}  // namespace vga
