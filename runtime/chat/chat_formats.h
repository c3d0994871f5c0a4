#pragma once

#include <span>
#include <string_view>

namespace vga {

/// A format that models have in common, written as a template.
struct ChatFormat {
  std::string_view name;
  std::string_view token;  // of the vocabulary, where models never saw it spelled out
  std::string_view jinja;
};

std::span<const ChatFormat> chat_formats();

}  // namespace vga
