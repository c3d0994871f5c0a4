#pragma once

#include <optional>

#include "gguf.h"
#include "vga.h"
#include "weights.h"

namespace vga {

/// What a Model holds; sessions read it. `weights` points into `gguf`.
struct Model::Impl {
  Gguf gguf;
  Config config;
  Weights weights;
  std::optional<Tokenizer> tokenizer;  // none in files for experiments on bare token ids
};

}  // namespace vga
