#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "error.h"

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

std::span<Sampler::Candidate> Sampler::candidates(std::span<const float> logits) {
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates_[i] = {static_cast<Token>(i), logits[i]};
  }
  if (options_.repeat_penalty != 1) {
    for (const Token token : std::set(recent_.begin(), recent_.end())) {
      float& logit = candidates_[static_cast<size_t>(token)].logit;
      logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
    }
  }
  return candidates_;
}

Token Sampler::sample(std::span<const float> logits) {
  // A total order, so that the outcome depends on nothing but the numbers.
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  std::span<Candidate> kept = candidates(logits);
  if (options_.temperature == 0) {
    return std::ranges::min_element(kept, likelier)->token;
  }
  if (options_.top_k > 0 && options_.top_k < kept.size()) {
    const auto middle = kept.begin() + static_cast<std::ptrdiff_t>(options_.top_k);
    std::nth_element(kept.begin(), middle, kept.end(), likelier);
    kept = kept.first(options_.top_k);
  }
  std::ranges::sort(kept, likelier);

  // Probabilities relative to the likeliest, at the temperature asked for.
  std::vector<double> weights(kept.size());
  double total = 0;
  for (size_t i = 0; i < kept.size(); ++i) {
    weights[i] = std::exp((double{kept[i].logit} - kept[0].logit) / options_.temperature);
    total += weights[i];
  }
  double sum = 0;
  size_t n = 0;
  while (n < kept.size() &&
         (n == 0 || (sum < options_.top_p * total && weights[n] >= options_.min_p))) {
    sum += weights[n++];
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
