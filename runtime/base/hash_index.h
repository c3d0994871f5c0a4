#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

namespace vga {

/// Spreads keys over 64 bits, differently in every process: no file can be written whose keys
/// collide, which would make reading it take the square of its size.
class KeyHash {
 public:
  uint64_t operator()(uint64_t key) const { return fold(key ^ seed_, multiplier); }
  uint64_t operator()(std::string_view key) const {
    uint64_t hash = seed_ ^ key.size();
    for (; key.size() > 8; key.remove_prefix(8)) hash = fold(hash ^ load(key, 8), multiplier);
    return fold(hash ^ load(key, key.size()), multiplier);
  }

 private:
  __extension__ using Product = unsigned __int128;

  static constexpr uint64_t multiplier = 0x9E3779B97F4A7C15;

  static uint64_t fold(uint64_t a, uint64_t b) {
    const Product product = static_cast<Product>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  static uint64_t load(std::string_view key, size_t n) {
    uint64_t value = 0;
    std::memcpy(&value, key.data(), n);
    return value;
  }
  static uint64_t draw() {
    std::random_device device;
    return uint64_t{device()} << 32 | device();
  }

  uint64_t seed_ = process_seed();

  static uint64_t process_seed() {
    static const uint64_t seed = draw();
    return seed;
  }
};

/// Finds the entries of a table by their keys. It is for tables with an entry for every token,
/// which are filled while a model loads: a slot holds a part of the hash and an index, so that all
/// slots stay in the cache, and the table itself has the keys. `key_of(index)` is what gives them.
class HashIndex {
 public:
  static constexpr int32_t none = -1;

  /// Room for `n` entries; more must not be added.
  explicit HashIndex(size_t n = 0) : slots_(std::bit_ceil(std::max<size_t>(2 * n, 2))) {}

  /// False, and nothing is changed, if `key` is there already. `index` is not negative.
  template <class Key, class KeyOf>
  bool insert(const Key& key, int32_t index, KeyOf&& key_of) {
    const uint64_t hash = hash_(key);
    Slot& slot = slots_[place(key, hash, key_of)];
    if (slot.index != none) return false;
    slot = {static_cast<uint32_t>(hash), index};
    return true;
  }

  /// The index of `key`, or none.
  template <class Key, class KeyOf>
  int32_t find(const Key& key, KeyOf&& key_of) const {
    return slots_[place(key, hash_(key), key_of)].index;
  }

 private:
  struct Slot {
    uint32_t tag = 0;
    int32_t index = none;
  };

  /// Where `key` is, or else belongs.
  template <class Key, class KeyOf>
  size_t place(const Key& key, uint64_t hash, KeyOf&& key_of) const {
    const auto tag = static_cast<uint32_t>(hash);
    const size_t mask = slots_.size() - 1;
    for (size_t at = (hash >> 32) & mask;; at = (at + 1) & mask) {
      const Slot& slot = slots_[at];
      if (slot.index == none || (slot.tag == tag && key_of(slot.index) == key)) return at;
    }
  }

  std::vector<Slot> slots_;  // a power of two of them, at most half full
  KeyHash hash_;
};

}  // namespace vga
