#pragma once

#include <cstddef>
#include <cstdio>
#include <string>

namespace vga {

/// snprintf as a string.
template <class... Arguments>
std::string format(const char* pattern, Arguments... arguments) {
  std::string text(static_cast<size_t>(std::snprintf(nullptr, 0, pattern, arguments...)), '\0');
  std::snprintf(text.data(), text.size() + 1, pattern, arguments...);
  return text;
}

}  // namespace vga
