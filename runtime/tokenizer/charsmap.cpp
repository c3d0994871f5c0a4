#include "tokenizer/charsmap.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "base/text.h"
#include "vga/error.h"

namespace vga {
namespace {

constexpr size_t max_charsmap_bytes = 1 << 20;
// The size of the library's own table for the results of one look-up. It reads past its end when
// there are more.
constexpr size_t max_rule_bytes = 32;
constexpr size_t max_rule_expansion = 64;

/// One unit of a darts-clone double array, as the library decodes it.
struct TrieUnit {
  uint32_t bits;
  bool has_leaf() const { return (bits >> 8 & 1) != 0; }
  uint32_t value() const { return bits & 0x7FFFFFFF; }
  uint32_t label() const { return bits & 0x800000FF; }
  uint32_t offset() const { return (bits >> 10) << ((bits & 1u << 9) >> 6); }
};

/// What a blob holds: a trie of what is replaced, whose leaves are places in `texts`.
struct Charsmap {
  std::vector<TrieUnit> units;
  std::string_view texts;  // the last one is terminated, too
  const std::string& where;

  /// Where the children of a node lie; each may be looked up with any byte.
  uint32_t children_of(uint32_t node) const {
    const uint32_t base = node ^ units[node].offset();
    if ((base | 0xFF) >= units.size()) throw Error(where, "its trie points outside itself");
    return base;
  }

  std::string_view replacement(uint32_t at) const {
    if (at >= texts.size()) throw Error(where, "a replacement lies outside it");
    const std::string_view text = texts.substr(at, texts.find('\0', at) - at);
    if (!is_utf8(text)) throw Error(where, "a replacement is not UTF-8");
    return text;
  }
};

Charsmap parse_charsmap(std::string_view blob, const std::string& where) {
  if (blob.size() > max_charsmap_bytes) {
    throw Error(where, "wanted at most " + std::to_string(max_charsmap_bytes) + " bytes, found " +
                           std::to_string(blob.size()));
  }
  uint32_t trie_bytes = 0;
  if (blob.size() < sizeof trie_bytes) throw Error(where, "too small");
  std::memcpy(&trie_bytes, blob.data(), sizeof trie_bytes);
  blob.remove_prefix(sizeof trie_bytes);
  if (trie_bytes % 4 != 0 || trie_bytes >= blob.size()) {
    throw Error(where, "a trie of " + std::to_string(trie_bytes) + " bytes does not fit into " +
                           std::to_string(blob.size()));
  }
  if (trie_bytes == 0) throw Error(where, "its trie is empty");
  std::vector<TrieUnit> units(trie_bytes / 4);
  std::memcpy(units.data(), blob.data(), trie_bytes);
  const std::string_view texts = blob.substr(trie_bytes);
  if (texts.back() != '\0') throw Error(where, "its last replacement is not terminated");
  return {std::move(units), texts, where};
}

}  // namespace

size_t check_charsmap(std::string_view blob, const std::string& where) {
  const Charsmap map = parse_charsmap(blob, where);
  size_t expansion = 1;
  // Level by level; `bases` are where the nodes of one lie.
  std::vector<uint32_t> bases = {map.children_of(0)};
  std::vector<size_t> seen_at(map.units.size(), 0);
  for (size_t depth = 1; !bases.empty(); ++depth) {
    std::vector<uint32_t> next;
    for (const uint32_t base : bases) {
      for (uint32_t c = 0; c < 256; ++c) {
        const uint32_t node = base ^ c;
        if (map.units[node].label() != c) continue;
        if (depth > max_rule_bytes) {
          throw Error(where, "rules for more than " + std::to_string(max_rule_bytes) +
                                 " bytes are not supported");
        }
        const uint32_t children = map.children_of(node);
        if (map.units[node].has_leaf()) {
          const std::string_view text = map.replacement(map.units[children].value());
          const size_t bytes = text.size() + 2 * static_cast<size_t>(std::ranges::count(text, ' '));
          expansion = std::max(expansion, (bytes + depth - 1) / depth);
        }
        if (seen_at[children] == depth) continue;
        seen_at[children] = depth;
        next.push_back(children);
      }
    }
    bases = std::move(next);
  }
  if (expansion > max_rule_expansion) {
    throw Error(where, "makes " + std::to_string(expansion) + " bytes of one, wanted at most " +
                           std::to_string(max_rule_expansion));
  }
  return expansion;
}

}  // namespace vga
