#include "vga/candidate.h"

#include <algorithm>
#include <cmath>

#include "vga/error.h"

namespace vga {

bool likelier(const Candidate& a, const Candidate& b) {
  if (std::isnan(a.logit) != std::isnan(b.logit)) return std::isnan(a.logit);
  if (a.logit < b.logit || a.logit > b.logit) return a.logit > b.logit;
  return a.token < b.token;
}

namespace {

/// Whether any of n elements is above `least` or no number, in a form that compilers turn into
/// vectors.
bool any_above(const float* x, size_t n, float least) {
  int any = 0;
  for (size_t i = 0; i < n; ++i) any |= x[i] <= least ? 0 : -1;
  return any != 0;
}

}  // namespace

void find_likeliest(std::span<const float> logits, std::span<Candidate> likeliest) {
  if (likeliest.empty()) return;
  for (size_t i = 0; i < likeliest.size(); ++i) likeliest[i] = {static_cast<Token>(i), logits[i]};
  std::ranges::make_heap(likeliest, likelier);  // the front is the least likely
  constexpr size_t block = 256;
  for (size_t first = likeliest.size(); first < logits.size(); first += block) {
    const size_t n = std::min(block, logits.size() - first);
    // Hardly a block has a better one. Equal ones that come later are none.
    const float least = likeliest.front().logit;
    if (!any_above(&logits[first], n, least)) continue;
    for (size_t i = first; i < first + n; ++i) {
      const Candidate next = {static_cast<Token>(i), logits[i]};
      if (!likelier(next, likeliest.front())) continue;
      std::ranges::pop_heap(likeliest, likelier);
      likeliest.back() = next;
      std::ranges::push_heap(likeliest, likelier);
    }
  }
  std::ranges::sort(likeliest, likelier);
}

void check_finite(float logit) {
  if (std::isfinite(logit)) return;
  throw NotFinite(
      "logits",
      "NaN or infinite, so nothing follows from them; --cache-type f32 helps if keys or "
      "values are too large for the cache, vga-inspect --check-tensors tells whether "
      "they are and whether the weights are broken");
}

}  // namespace vga
