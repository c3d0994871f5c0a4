#pragma once

#include "gguf.h"
#include "vga.h"
#include "weights.h"

namespace vga {

/// What a Model holds; sessions read it. `weights` points into `gguf`.
struct Model::Impl {
  Gguf gguf;
  Config config;
  Weights weights;
  Tokenizer tokenizer;
};

}  // namespace vga
