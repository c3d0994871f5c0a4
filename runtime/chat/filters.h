#pragma once

#include <string_view>

#include "chat/arguments.h"
#include "chat/value.h"

namespace vga::jinja {

/// `value | name(arguments)`; a Fault if the filter is not known here.
Value apply_filter(Heap& heap, std::string_view name, const Value& value,
                   const Arguments& arguments);

}  // namespace vga::jinja
