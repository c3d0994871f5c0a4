#pragma once

#include <ctime>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/syntax.h"

namespace vga::jinja {

/// Runs a template with these names set; what it writes. Uses at most the steps that `heap` has
/// left; a Fault if it wants more, or does what is none. `now` is the time it is told.
MarkedText run(const Program& program, Heap& heap,
               const std::vector<std::pair<std::string_view, Value>>& names, std::time_t now);

}  // namespace vga::jinja
