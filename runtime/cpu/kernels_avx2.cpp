// Compiled for AVX2, FMA and F16C.

#include "avx2.h"

namespace vga::cpu {

const Kernels avx2_kernels = VectorKernels<Avx2>::table("avx2");

}  // namespace vga::cpu
