#include "cpu/large_memory.h"

#include <new>

#include <sys/mman.h>

namespace vga::cpu {

void Unmap::operator()(std::byte* memory) const {
  ::munmap(memory, bytes);
}

LargeMemory large_memory(size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  ::madvise(memory, bytes, MADV_HUGEPAGE);  // a wish
#endif
  return {static_cast<std::byte*>(memory), Unmap{bytes}};
}

}  // namespace vga::cpu
