#pragma once

#include <string_view>

namespace vga {

/// page.html, the chat at "/".
extern const std::string_view page_html;

}  // namespace vga
