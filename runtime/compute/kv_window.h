#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace vga {

/// What the rows of a sequence see: the first `keep` positions for good and of all others the last
/// size - keep, the row's own among them. Pure index arithmetic; a sequence without a window is one
/// that ends before its window slides.
///
/// Keys lie in the cache rotated once, at their absolute positions. Scores depend on distances
/// alone, so those of the sliding part stay right for ever. The kept ones do not slide along: a row
/// meets them with a second query, rotated as if nothing had been forgotten between them, at the
/// row's index among all that it sees. These are StreamingLLM's positions (arXiv 2309.17453)
/// without ever rotating a key again.
struct KvWindow {
  int64_t size;      // positions that a row sees, its own and the kept ones included
  int64_t keep = 0;  // less than size

  bool operator==(const KvWindow&) const = default;

  struct View {
    int64_t first;  // of the positions behind the kept ones that are seen, up to the row's own
    int64_t index;  // of the row among all positions it sees: min(position, size - 1)
  };
  /// Positions before `forgotten` that are not kept have left the view early.
  View view(int64_t position, int64_t forgotten = 0) const {
    const int64_t first = std::max({keep, position - (size - keep) + 1, forgotten});
    return {first, position < keep ? position : keep + position - first};
  }

  /// Positions a ring needs so that no row of a batch overwrites what another one still sees.
  int64_t ring_positions(size_t max_batch) const {
    return size - keep + static_cast<int64_t>(max_batch);
  }

  /// Whether a row at `position` finds what it sees in a ring of n_ring positions, of which
  /// everything before `written` has been written once: p overwrites p - n_ring.
  bool holds(int64_t position, int64_t forgotten, int64_t n_ring, int64_t written) const {
    const int64_t first = view(position, forgotten).first;
    return first >= position || first >= written - n_ring;
  }
};

}  // namespace vga
