#pragma once

#include <string_view>

#include "chat/arguments.h"
#include "chat/value.h"

namespace vga::jinja {

/// Whether values of this type have a method of that name.
bool has_method(const Value& of, std::string_view name);
/// A Fault if it is not known here.
Value call_method(Heap& heap, const Method& method, const Arguments& arguments);

/// `text` without the spaces at its ends, or the characters asked for; `name` is "lstrip",
/// "rstrip", or another for both.
MarkedText stripped(const MarkedText& text, std::string_view name, const Arguments& arguments);
/// `text` with `from` replaced by `to`, `count` times at most.
MarkedText replaced(Heap& heap, const MarkedText& text, const MarkedText& from,
                    const MarkedText& to, int64_t count);
/// The first character in upper case, the rest in lower.
MarkedText capitalized(const MarkedText& text);
/// Every word's first character in upper case, the rest in lower: a word goes on behind a character
/// that `belongs` to one.
MarkedText titled(const MarkedText& text, bool (*belongs)(uint32_t));

}  // namespace vga::jinja
