#pragma once

#include <string_view>

#include "chat/value.h"

namespace vga::jinja {

/// `a sign b` for + - * / // %; a Fault if the two have none.
Value arithmetic(Heap& heap, std::string_view sign, const Value& a, const Value& b);
/// `a sign b` for == != < <= > >= in "not in".
bool comparison(Heap& heap, std::string_view sign, const Value& a, const Value& b);
Value negated(const Value& value);

/// `of.name`: of a dict a method goes first, then an entry. Undefined where there is none.
Value attribute(Heap& heap, const Value& of, std::string_view name);
/// `of[key]`. Undefined where there is none.
Value item(Heap& heap, const Value& of, const Value& key);
/// `of[begin:end:step]`, each of them an integer or None.
Value slice(Heap& heap, const Value& of, const Value& begin, const Value& end, const Value& step);

}  // namespace vga::jinja
