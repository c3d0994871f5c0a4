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
  // Logits are divided by it, and must not become infinite.
  check(o.repeat_penalty >= 0.01f && o.repeat_penalty <= 100, "repeat-penalty", "0.01 to 100",
        o.repeat_penalty);
  for (const auto& [option, value] : {std::pair("presence-penalty", o.presence_penalty),
                                      std::pair("frequency-penalty", o.frequency_penalty)}) {
    check(value >= -2 && value <= 2, option, "-2 to 2", value);
  }
  for (const LogitBias& bias : o.logit_bias) {
    check(bias.bias >= -100 && bias.bias <= 100, "logit-bias", "-100 to 100", bias.bias);
  }
}

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  validate(options);
}

void Sampler::accept(Token token) {
  if (counts_tokens()) ++seen_[token];
  recent_.push_back(token);
  if (recent_.size() > options_.repeat_last) recent_.pop_front();
}

bool Sampler::counts_tokens() const {
  return options_.presence_penalty != 0 || options_.frequency_penalty != 0;
}

bool Sampler::changes_logits() const {
  return options_.repeat_penalty != 1 || counts_tokens() || !options_.logit_bias.empty();
}

size_t Sampler::n_candidates() const {
  return changes_logits() ? 0 : n_kept();
}

/// The logits with biases and penalties.
std::span<const float> Sampler::changed(std::span<const float> logits) {
  changed_.assign(logits.begin(), logits.end());
  const auto at = [&](Token token) -> float& {
    const auto i = static_cast<size_t>(token);
    if (i < changed_.size()) return changed_[i];
    throw Error("token to penalize", "wanted 0 to " + std::to_string(changed_.size() - 1) +
                                         ", found " + std::to_string(token));
  };
  for (const LogitBias& bias : options_.logit_bias) at(bias.token) += bias.bias;
  if (options_.repeat_penalty != 1) {
    for (const Token token : std::set(recent_.begin(), recent_.end())) {
      float& logit = at(token);
      logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
    }
  }
  if (counts_tokens()) {
    for (const auto& [token, times] : seen_) {
      at(token) -=
          options_.presence_penalty + options_.frequency_penalty * static_cast<float>(times);
    }
  }
  return changed_;
}

Token Sampler::sample(std::span<const float> logits) {
  if (changes_logits()) logits = changed(logits);
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
  // 1 keeps all, also those that are too unlikely to change the sum.
  const auto is_kept = [&] {
    return (options_.top_p == 1 || sum < options_.top_p * total) && weights[n] >= options_.min_p;
  };
  while (n < kept.size() && (n == 0 || is_kept())) sum += weights[n++];
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
