#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace vga {

/// Length of the longest common beginning of two sequences.
size_t common_prefix(const auto& a, const auto& b) {
  return static_cast<size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

/// More tokens than a template puts between a message and its answer. The next prompt of a chat has
/// what stands before them, but not always those: a snapshot is of use before them.
constexpr size_t asking_tokens = 16;

/// How many bytes at the end of `text` could be the beginning of `mark`, which is not empty and not
/// in there.
inline size_t begun(std::string_view text, std::string_view mark) {
  size_t n = std::min(text.size(), mark.size() - 1);
  while (!text.ends_with(mark.substr(0, n))) --n;
  return n;
}

}  // namespace vga
