#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace vga {

/// From keys to indices, for tables with an entry for every token: filled while a model loads,
/// where a node for each entry would be most of the time. The keys must not all collide on purpose:
/// it is for files, and a bad one is slow and nothing else.
template <class Key>
class FlatMap {
 public:
  static constexpr int32_t none = -1;

  /// Room for `n` entries; more must not be added.
  explicit FlatMap(size_t n = 0)
      : slots_(std::bit_ceil(2 * n + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

  /// False, and nothing is changed, if `key` is there already. `index` is not negative.
  bool insert(const Key& key, int32_t index) {
    Slot& slot = slots_[place(key)];
    if (slot.index != none) return false;
    slot = {key, index};
    return true;
  }

  /// The index of `key`, or none.
  int32_t find(const Key& key) const { return slots_[place(key)].index; }

 private:
  struct Slot {
    Key key{};
    int32_t index = none;
  };

  /// Where `key` is, or else belongs.
  size_t place(const Key& key) const {
    // Some standard libraries hash numbers to themselves: the product spreads them.
    size_t at = (std::hash<Key>{}(key)*0x9E3779B97F4A7C15u) >> shift_;
    while (slots_[at].index != none && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::vector<Slot> slots_;  // a power of two of them, at most half full
  int shift_;
};

}  // namespace vga
