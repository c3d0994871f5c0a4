#pragma once

#include <memory>
#include <string_view>

#include "chat/syntax.h"

namespace vga::jinja {

/// Reads a template. A Fault with its line if it is none, or uses what is not known here.
std::unique_ptr<const Program> parse(std::string_view source);

}  // namespace vga::jinja
