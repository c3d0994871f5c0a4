#pragma once

#include "conversion.h"
#include "model/adaptation.h"
#include "quantization.h"

namespace vga {

/// A base with adapters for good: each matrix W as W + b a, in f32 before it is encoded; gates and
/// vectors in their places. What no adapter changes and has its type already is copied. `name` is
/// what the model is called, the base's name if empty. Base and adaptation must outlive the result.
Conversion plan_baking(const Gguf& base, const Adaptation& adaptation,
                       const Quantization& quantization, const std::string& name);

}  // namespace vga
