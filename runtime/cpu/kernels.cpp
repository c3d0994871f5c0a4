#include "kernels.h"

#include <cstdlib>
#include <string>
#include <string_view>

#include "../error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vga::cpu {

#if defined(__x86_64__)

bool has_avx2() {
  constexpr unsigned f16c = 1u << 29;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  // __builtin_cpu_supports() also asks whether the system saves the YMM registers, but not every
  // compiler lets it be asked for F16C.
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (ecx & f16c) != 0;
}

static const Kernels* fast_kernels() {
  return has_avx2() ? &avx2_kernels : nullptr;
}

#else

bool has_avx2() {
  return false;
}

static const Kernels* fast_kernels() {
  return nullptr;
}

#endif

const Kernels& best_kernels() {
  const Kernels* fast = fast_kernels();
  const char* wanted = std::getenv("VGA_CPU");
  if (wanted == nullptr) return fast != nullptr ? *fast : scalar_kernels;
  if (wanted == std::string_view(scalar_kernels.name)) return scalar_kernels;
  if (wanted != std::string_view("avx2")) {
    throw Error("VGA_CPU", "must be scalar or avx2, not '" + std::string(wanted) + "'");
  }
  if (fast == nullptr) throw Error("VGA_CPU", "this CPU cannot run avx2");
  return *fast;
}

}  // namespace vga::cpu
