#include "candidate.h"

#include <algorithm>
#include <cmath>

namespace vga {

bool likelier(const Candidate& a, const Candidate& b) {
  if (std::isnan(a.logit) != std::isnan(b.logit)) return std::isnan(b.logit);
  if (a.logit < b.logit || a.logit > b.logit) return a.logit > b.logit;
  return a.token < b.token;
}

void find_likeliest(std::span<const float> logits, std::span<Candidate> likeliest) {
  if (likeliest.empty()) return;
  // A heap, the front of which is the least likely.
  const auto begin = likeliest.begin();
  for (size_t i = 0; i < logits.size(); ++i) {
    const Candidate next = {static_cast<Token>(i), logits[i]};
    if (i < likeliest.size()) {
      likeliest[i] = next;
      std::push_heap(begin, begin + static_cast<std::ptrdiff_t>(i) + 1, likelier);
    } else if (likelier(next, likeliest.front())) {
      std::pop_heap(begin, likeliest.end(), likelier);
      likeliest.back() = next;
      std::push_heap(begin, likeliest.end(), likelier);
    }
  }
  std::sort_heap(begin, likeliest.end(), likelier);
}

}  // namespace vga
