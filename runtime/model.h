#pragma once

#include <optional>

#include "cpu/kernels.h"
#include "cpu/panels.h"
#include "gguf.h"
#include "vga.h"
#include "weights.h"

namespace vga {

/// What a Model holds; sessions read it. `weights` points into `gguf` and `panels`.
struct Model::Impl {
  Gguf gguf;
  Config config;
  Weights weights;
  std::optional<Tokenizer> tokenizer;  // none in files for experiments on bare token ids
  const cpu::Kernels& kernels;         // those that the weights are arranged for
  std::optional<cpu::Panels> panels;   // none if the kernels take weights as the file has them
};

}  // namespace vga
