#pragma once

#include <optional>
#include <vector>

#include "compute/device.h"
#include "model/adaptation.h"
#include "model/tensor_source.h"
#include "vga/vga.h"

namespace vga {

/// The file's tokenizer, with the pre-tokenizer `pre` if that is not empty; none if it takes bare
/// token ids. An Error also if it has not one token for each row of the embedding.
std::optional<Tokenizer> read_tokenizer(const Gguf& gguf, const Config& config,
                                        std::string_view pre = {});

/// What models share that differ in adapters alone. `weights` points into `source` and the devices.
struct Base {
  /// Layers, and where they are computed.
  struct Part {
    LayerRange layers;
    std::unique_ptr<const Device> device;
  };

  std::unique_ptr<const TensorSource> source;
  Config config;
  Weights weights;
  std::optional<Tokenizer> tokenizer;  // none in files for experiments on bare token ids
  std::vector<Part> parts;             // one after the other
  std::string why_cpu;
};

/// What a Model holds; sessions read it.
struct Model::Impl {
  std::shared_ptr<const Base> base;
  std::unique_ptr<const Adaptation> adaptation;      // none without adapters
  std::vector<std::shared_ptr<const void>> adapted;  // its weights on the devices
  Config config;
  Weights weights;  // the base's, or what adapters made of them
};

}  // namespace vga
