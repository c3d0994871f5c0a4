// Compiled for AVX2, FMA, F16C and AVX-VNNI: laptops without AVX-512 that are not old.

#include "cpu/avx2.h"
#include "cpu/vnni.h"

namespace vga::cpu {
namespace {

struct AvxVnni : Avx2, Vnni<AvxVnni> {
  using Vnni<AvxVnni>::x_parts;
  using Vnni<AvxVnni>::dot;
  using Vnni<AvxVnni>::finish_group;
  using Avx2::broadcast;

  static Ints zero_words() { return _mm256_setzero_si256(); }
  template <unsigned n>
  static Ints shift_words_left(Ints x) {
    return _mm256_slli_epi32(x, n);
  }
  static Ints add_byte_products(Ints sum, Ints q, Ints x) {
    return _mm256_dpbusd_avx_epi32(sum, q, x);
  }
};

}  // namespace

const Kernels avxvnni_kernels = vector_kernels<AvxVnni>("avxvnni");

}  // namespace vga::cpu
