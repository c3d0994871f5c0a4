#include "vga/error.h"

#include "base/text.h"

namespace vga {

Error::Error(std::string_view what) : std::runtime_error(printable(what)) {}

Error::Error(std::string_view where, std::string_view what)
    : std::runtime_error(printable(where) + ": " + printable(what)) {}

}  // namespace vga
