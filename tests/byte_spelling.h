#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/text.h"

namespace vga::test {

/// `bytes` as byte-level BPE vocabularies spell them, a printable character for each.
inline std::string spell(std::string_view bytes) {
  static const std::array<std::string, 256> spellings = [] {
    std::array<std::string, 256> table;
    uint32_t next = 256;
    for (uint32_t c = 0; c < 256; ++c) {
      const bool itself = (c >= '!' && c <= '~') || (c >= 0xA1 && c <= 0xAC) || c >= 0xAE;
      append_utf8(table[c], itself ? c : next++);
    }
    return table;
  }();
  std::string out;
  for (const char c : bytes) out += spellings[static_cast<unsigned char>(c)];
  return out;
}

}  // namespace vga::test
