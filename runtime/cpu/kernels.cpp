#include "cpu/kernels.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "vga/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vga::cpu {
namespace {

#if defined(__x86_64__)

struct CpuId {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
};

/// Zeros for a leaf that this CPU has not.
CpuId cpuid(unsigned leaf, unsigned subleaf) {
  CpuId id;
  __get_cpuid_count(leaf, subleaf, &id.eax, &id.ebx, &id.ecx, &id.edx);
  return id;
}

/// __builtin_cpu_supports() also asks whether the system saves the vector registers, but not every
/// compiler lets it be asked for F16C or AVX-VNNI.
bool has_avx2() {
  constexpr unsigned f16c = 1u << 29;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         (cpuid(1, 0).ecx & f16c) != 0;
}

bool has_avxvnni() {
  constexpr unsigned avxvnni = 1u << 4;
  return has_avx2() && (cpuid(7, 1).eax & avxvnni) != 0;
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

#endif

struct Table {
  const Kernels* kernels;
  bool supported;
};

/// Every table of this build, the fastest first.
std::vector<Table> tables() {
  return {
#if defined(__x86_64__)
    {&avx512_kernels, has_avx512()}, {&avxvnni_kernels, has_avxvnni()}, {&avx2_kernels, has_avx2()},
#endif
        {&scalar_kernels, true},
  };
}

}  // namespace

std::span<const Kernels* const> supported_kernels() {
  static const std::vector<const Kernels*> supported = [] {
    std::vector<const Kernels*> list;
    for (const Table& table : tables()) {
      if (table.supported) list.push_back(table.kernels);
    }
    return list;
  }();
  return supported;
}

const Kernels& best_kernels() {
  const char* wanted = std::getenv("VGA_CPU");
  if (wanted == nullptr || *wanted == '\0') return *supported_kernels().front();
  std::string names;
  for (const Table& table : tables()) {
    if (table.kernels->name == std::string_view(wanted)) {
      if (table.supported) return *table.kernels;
      throw Error("VGA_CPU", "this CPU cannot run " + std::string(wanted));
    }
    names += (names.empty() ? "" : ", ") + std::string(table.kernels->name);
  }
  throw Error("VGA_CPU", "wanted one of " + names + ", found '" + std::string(wanted) + "'");
}

}  // namespace vga::cpu
