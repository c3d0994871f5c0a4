#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "source_tensor.h"
#include "vga/config.h"

namespace vga {

/// A model in the first file format of llama2.c: seven int32, then float32 weights.
struct Llama2c {
  Config config;          // architecture llama
  SourceTensors tensors;  // Hugging Face's names; they point into the file
};

/// Q and K of these files are already in adjacent-pair RoPE order. The file must be exactly as long
/// as its header says; anything else is an Error naming `where`.
Llama2c parse_llama2c(std::span<const std::byte> bytes, std::string_view where);

}  // namespace vga
