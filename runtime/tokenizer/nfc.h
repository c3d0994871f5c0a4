#pragma once

#include <string>
#include <string_view>

namespace vga {

/// Unicode's normalization form C of UTF-8: "e" and a combining acute accent become "é". Of more
/// than a thousand combining marks in a row, which no language has, each thousand is sorted alone:
/// sorting takes the square of their number.
std::string nfc(std::string_view text);

/// Whether nfc() cannot change `text`, told by looking at bytes alone.
bool is_surely_nfc(std::string_view text);

}  // namespace vga
