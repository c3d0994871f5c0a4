#pragma once

#include <optional>

#include "cpu/kernels.h"
#include "cpu/panels.h"
#include "gguf/gguf.h"
#include "model/weights.h"
#include "vga/vga.h"
#include "vulkan/devices.h"

namespace vga {

/// The file's tokenizer, with the pre-tokenizer `pre` if that is not empty; none if it takes bare
/// token ids. An Error also if it has not one token for each row of the embedding.
std::optional<Tokenizer> read_tokenizer(const Gguf& gguf, const Config& config,
                                        std::string_view pre = {});

/// What a Model holds; sessions read it. `weights` points into `gguf` and `panels`.
struct Model::Impl {
  Gguf gguf;
  Config config;
  Weights weights;
  std::optional<Tokenizer> tokenizer;  // none in files for experiments on bare token ids
  const cpu::Kernels& kernels;         // those that the weights are arranged for
  std::optional<cpu::Panels> panels;   // none if the kernels take weights as the file has them
  std::unique_ptr<vulkan::DeviceModel> device;  // null if all is on the CPU
  size_t device_layers;                         // that are on it, from the first on
  std::string why_cpu;
};

}  // namespace vga
