#pragma once

#include <optional>

#include "chat/value.h"

namespace vga::jinja {

struct JsonLayout {
  std::optional<size_t> indent = {};  // spaces for each level, on lines of their own
  std::string_view item_separator = ", ";
  std::string_view key_separator = ": ";
  bool ascii = false;  // \u escapes for all else
  bool sorts_keys = false;
};

/// A value as Python's json.dumps() writes it; a Fault for what JSON has no word for.
MarkedText to_json(const Value& value, const JsonLayout& layout);

}  // namespace vga::jinja
