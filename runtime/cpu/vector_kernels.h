#pragma once

#include "cpu/kernels.h"
#include "cpu/vector_attention.h"
#include "cpu/vector_delta.h"
#include "cpu/vector_elements.h"
#include "cpu/vector_products.h"

namespace vga::cpu {

/// The kernels of an instruction set; see vector.h for its V.
template <class V>
constexpr Kernels vector_kernels(const char* name) {
  return {.name = name,
          .lanes = V::lanes,
          .prepare = VectorProducts<V>::prepare,
          .project = VectorProducts<V>::project,
          .rms_norm = VectorElements<V>::rms_norm,
          .layer_norm = VectorElements<V>::layer_norm,
          .rope = VectorElements<V>::rope,
          .write_key = VectorAttention<V>::write_key,
          .write_value = VectorAttention<V>::write_value,
          .attend = VectorAttention<V>::attend,
          .activate = VectorElements<V>::activate,
          .add = VectorElements<V>::add,
          .scale = VectorElements<V>::scale,
          .convolve = VectorDelta<V>::convolve,
          .delta_step = VectorDelta<V>::delta_step};
}

}  // namespace vga::cpu
