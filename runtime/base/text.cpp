#include "base/text.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace vga {

int utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const int length = lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : 4;
  if (lead < 0xC2 || lead > 0xF4) return -1;
  // The second byte excludes overlong forms, surrogates and code points above 0x10FFFF.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) >= text.size()) return 0;
    const unsigned c = byte(static_cast<size_t>(i));
    if (i == 1 ? c < low || c > high : c < 0x80 || c > 0xBF) return -1;
  }
  return length;
}

size_t n_characters(std::string_view text) {
  const auto begins = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
  return static_cast<size_t>(std::ranges::count_if(text, begins));
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const int length = utf8_length(text);
    if (length <= 0) return false;
    text.remove_prefix(static_cast<size_t>(length));
  }
  return true;
}

size_t append_repaired(std::string& out, std::string_view text, bool everything) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const int length = utf8_length(rest);
    if (length == 0 && !everything) break;
    const size_t used = length > 0 ? static_cast<size_t>(length) : 1;
    out += length > 0 ? rest.substr(0, used) : "\uFFFD";
    rest.remove_prefix(used);
  }
  return text.size() - rest.size();
}

std::string_view without_byte_order_mark(std::string_view text) {
  constexpr std::string_view mark = "\xEF\xBB\xBF";
  return text.starts_with(mark) ? text.substr(mark.size()) : text;
}

void append_utf8(std::string& text, uint32_t c) {
  const auto put = [&](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const int length = utf8_length(text);
    const auto c = static_cast<unsigned char>(text[0]);
    // C1 controls (U+0080..U+009F) are C2 80..C2 9F in UTF-8; terminals may obey them too.
    const bool control = c < 0x20 || c == 0x7F ||
                         (length == 2 && c == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0);
    if (length > 0 && !control) {
      out += text.substr(0, static_cast<size_t>(length));
      text.remove_prefix(static_cast<size_t>(length));
      continue;
    }
    if (c == '\n') {
      out += "\\n";
    } else {
      std::array<char, 8> hex{};
      std::snprintf(hex.data(), hex.size(), "\\x%02X", c);
      out += hex.data();
    }
    text.remove_prefix(1);
  }
  return out;
}

std::string joined(std::span<const uint64_t> numbers, std::string_view separator) {
  std::string text;
  for (const uint64_t number : numbers) {
    if (!text.empty()) text += separator;
    text += std::to_string(number);
  }
  return text;
}

std::string bracketed(std::span<const uint64_t> numbers) {
  return "(" + joined(numbers, ", ") + ")";
}

std::string human_bytes(uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes) + " bytes";
  constexpr std::array units = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 32> out{};
  std::snprintf(out.data(), out.size(), "%.1f %s", value, units[unit]);
  return out.data();
}

std::string with_commas(uint64_t number) {
  std::string digits = std::to_string(number);
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, ",");
  return digits;
}

}  // namespace vga
