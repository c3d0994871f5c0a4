#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>

namespace vga {

/// A format that models have in common, written as a template.
struct ChatFormat {
  std::string_view name;
  std::string_view token;  // of the vocabulary, where models never saw it spelled out
  std::array<std::string_view, 2> settings;  // what its template finds set
  std::string_view body;

  std::string jinja() const;
};

std::span<const ChatFormat> chat_formats();

}  // namespace vga
