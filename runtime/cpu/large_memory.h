#pragma once

#include <cstddef>
#include <memory>

namespace vga::cpu {

/// Gives memory back to the system.
struct Unmap {
  size_t bytes;
  void operator()(std::byte* memory) const;
};
using LargeMemory = std::unique_ptr<std::byte[], Unmap>;

/// Zeros straight from the system, which takes real memory only as they are touched, in large pages
/// where it can: with small ones a core that streams through memory waits for page tables, too.
/// Throws std::bad_alloc.
LargeMemory large_memory(size_t bytes);

}  // namespace vga::cpu
