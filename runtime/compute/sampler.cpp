#include "vga/sampler.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "vga/error.h"

namespace vga {

void validate(const SamplerOptions& o) {
  const auto check = [](bool good, const char* option, const char* wanted, float found) {
    if (!good)
      throw Error(option, std::string("wanted ") + wanted + ", found " + std::to_string(found));
  };
  // Written so that NaN fails every comparison.
  check(o.temperature >= 0 && o.temperature <= 100, "temperature", "0 to 100", o.temperature);
  check(o.top_p > 0 && o.top_p <= 1, "top-p", "above 0, up to 1", o.top_p);
  check(o.min_p >= 0 && o.min_p <= 1, "min-p", "0 to 1", o.min_p);
  check(o.repeat_penalty > 0 && o.repeat_penalty <= 100, "repeat-penalty", "above 0, up to 100",
        o.repeat_penalty);
}

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  validate(options);
}

void Sampler::accept(Token token) {
  recent_.push_back(token);
  if (recent_.size() > options_.repeat_last) recent_.pop_front();
}

size_t Sampler::n_candidates() const {
  return options_.repeat_penalty != 1 ? 0 : n_kept();
}

Token Sampler::sample(std::span<const float> logits) {
  if (options_.repeat_penalty != 1) {
    penalized_.assign(logits.begin(), logits.end());
    for (const Token token : std::set(recent_.begin(), recent_.end())) {
      const auto i = static_cast<size_t>(token);
      if (i >= penalized_.size()) {
        throw Error("token to penalize", "wanted 0 to " + std::to_string(penalized_.size() - 1) +
                                             ", found " + std::to_string(token));
      }
      float& logit = penalized_[i];
      logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
    }
    logits = penalized_;
  }
  const size_t n = n_kept();
  candidates_.resize(n == 0 ? logits.size() : std::min(n, logits.size()));
  find_likeliest(logits, candidates_);
  return sample(candidates_);
}

Token Sampler::sample(std::span<const Candidate> kept) {
  check_finite(kept.front().logit);
  if (options_.temperature == 0) return kept.front().token;
  // Probabilities relative to the likeliest, of the logits as they are.
  std::vector<double> weights(kept.size());
  double total = 0;
  for (size_t i = 0; i < kept.size(); ++i) {
    weights[i] = std::exp(double{kept[i].logit} - kept[0].logit);
    total += weights[i];
  }
  double sum = 0;
  size_t n = 0;
  while (n < kept.size() &&
         (n == 0 || (sum < options_.top_p * total && weights[n] >= options_.min_p))) {
    sum += weights[n++];
  }
  // What is left, at the temperature asked for.
  sum = 0;
  for (size_t i = 0; i < n; ++i) {
    weights[i] = std::exp((double{kept[i].logit} - kept[0].logit) / options_.temperature);
    sum += weights[i];
  }
  // 53 random bits make a double in [0, 1) that is the same with every standard library.
  double dart = static_cast<double>(random_() >> 11) * 0x1p-53 * sum;
  for (size_t i = 0; i + 1 < n; ++i) {
    if (dart < weights[i]) return kept[i].token;
    dart -= weights[i];
  }
  return kept[n - 1].token;
}

}  // namespace vga
