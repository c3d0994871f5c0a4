#pragma once

#include <string_view>

#include "chat/arguments.h"
#include "chat/value.h"

namespace vga::jinja {

/// `value is name(arguments)`; a Fault if the test is not known here.
bool apply_test(Heap& heap, std::string_view name, const Value& value, const Arguments& arguments);

}  // namespace vga::jinja
