#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace vga {

/// Checks SentencePiece's compiled normalization rules, so that the library can walk their trie
/// unchecked: every path of it is walked. Returns the most bytes a rule makes of one byte, spaces
/// counted as the "▁" they become. An Error that begins with `where`.
size_t check_charsmap(std::string_view blob, const std::string& where);

}  // namespace vga
