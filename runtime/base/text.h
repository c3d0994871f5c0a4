#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace vga {

/// Bytes of the UTF-8 character that starts at `text[0]`: 1 to 4 for a complete valid character,
/// 0 if `text` is a proper beginning of one and needs more bytes, -1 if it can never become one.
/// `text` is not empty.
int utf8_length(std::string_view text);

bool is_utf8(std::string_view text);

/// Characters of UTF-8 text.
size_t n_characters(std::string_view text);

/// Appends `text` to `out` with U+FFFD for each byte that no character starts with; returns how
/// many bytes that were. An unfinished character at the end of `text` is left, unless `everything`.
size_t append_repaired(std::string& out, std::string_view text, bool everything);

/// The text behind UTF-8's byte order mark, or all of it if it has none.
std::string_view without_byte_order_mark(std::string_view text);

/// Appends code point `c` (at most 0x10FFFF) as UTF-8.
void append_utf8(std::string& text, uint32_t c);

/// `text` fit for one line of a terminal or a log: control characters and bytes that are not UTF-8
/// become `\xNN`, line breaks `\n`, so that a file's strings cannot move the cursor.
std::string printable(std::string_view text);

/// The names of what a table holds, for messages: "f32, f16, q8_0".
template <class Table>
std::string names_of(const Table& table) {
  std::string names;
  for (const auto& entry : table) {
    if (!names.empty()) names += ", ";
    names += entry.name;
  }
  return names;
}

/// A list of numbers: "576 x 1536".
std::string joined(std::span<const uint64_t> numbers, std::string_view separator);

/// The same as messages have a shape: "(4096, 256)".
std::string bracketed(std::span<const uint64_t> numbers);

/// "1.5 MiB", "312 bytes".
std::string human_bytes(uint64_t bytes);

/// "12,810,240".
std::string with_commas(uint64_t number);

}  // namespace vga
