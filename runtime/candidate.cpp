#include "candidate.h"

#include <algorithm>
#include <cmath>

namespace vga {

bool likelier(const Candidate& a, const Candidate& b) {
  if (std::isnan(a.logit) != std::isnan(b.logit)) return std::isnan(b.logit);
  if (a.logit < b.logit || a.logit > b.logit) return a.logit > b.logit;
  return a.token < b.token;
}

namespace {

/// Whether any of n elements is above `least`, in a form that compilers turn into vectors.
bool any_above(const float* x, size_t n, float least) {
  int any = 0;
  for (size_t i = 0; i < n; ++i) any |= x[i] > least ? -1 : 0;
  return any != 0;
}

}  // namespace

void find_likeliest(std::span<const float> logits, std::span<Candidate> likeliest) {
  if (likeliest.empty()) return;
  // A heap, the front of which is the least likely.
  const auto begin = likeliest.begin();
  const auto consider = [&](size_t i) {
    const Candidate next = {static_cast<Token>(i), logits[i]};
    if (i < likeliest.size()) {
      likeliest[i] = next;
      std::push_heap(begin, begin + static_cast<std::ptrdiff_t>(i) + 1, likelier);
    } else if (likelier(next, likeliest.front())) {
      std::pop_heap(begin, likeliest.end(), likelier);
      likeliest.back() = next;
      std::push_heap(begin, likeliest.end(), likelier);
    }
  };
  constexpr size_t block = 256;
  for (size_t first = 0; first < logits.size(); first += block) {
    const size_t n = std::min(block, logits.size() - first);
    // Hardly a block has a better one. Equal ones that come later are none.
    const float least = likeliest.front().logit;
    const bool full = first >= likeliest.size();
    if (full && !std::isnan(least) && !any_above(&logits[first], n, least)) continue;
    for (size_t i = first; i < first + n; ++i) consider(i);
  }
  std::sort_heap(begin, likeliest.end(), likelier);
}

}  // namespace vga
