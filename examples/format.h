#pragma once

#include <cstdio>
#include <string>

namespace vga {

/// snprintf as a string, for lines of up to a kilobyte.
template <class... Arguments>
std::string format(const char* pattern, Arguments... arguments) {
  char text[1024];
  std::snprintf(text, sizeof text, pattern, arguments...);
  return text;
}

}  // namespace vga
