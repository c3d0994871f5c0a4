// Compiled for AVX2, FMA and F16C.

#include "cpu/avx2.h"

namespace vga::cpu {

const Kernels avx2_kernels = vector_kernels<Avx2>("avx2");

}  // namespace vga::cpu
