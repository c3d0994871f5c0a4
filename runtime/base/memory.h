#pragma once

#include <cstdint>
#include <string_view>

namespace vga {

/// Bytes of memory that this process could still have if all others gave theirs back: what the
/// machine has, swap included, or what a container or the process is limited to, less what it has
/// taken. UINT64_MAX where the system does not say.
uint64_t memory_left();

/// An Error if that is less than `bytes`: before they are asked for, since a system that promises
/// more than it has ends programs later without a word. `what` takes them, `less` makes it fewer.
void check_memory(uint64_t bytes, std::string_view what, std::string_view less);

}  // namespace vga
