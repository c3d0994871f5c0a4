#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "conversion.h"
#include "source_tensor.h"
#include "vga/config.h"

namespace vga {

/// What an adapter_config.json says of the updates of modules whose names match a regex.
struct PeftPattern {
  std::string regex;
  double value;
};

/// A LoRA adapter as PEFT saves it, of a model in transformers' names. Tensors are views of
/// `files`; moving it is fine.
struct PeftAdapter {
  size_t rank = 0;
  double alpha = 0;
  bool by_root = false;                     // alpha is divided by the rank's root (rslora)
  std::vector<PeftPattern> rank_patterns;   // instead of `rank`
  std::vector<PeftPattern> alpha_patterns;  // instead of `alpha`
  std::optional<AttentionGate> gate;        // ours: what else it gives the model
  SourceTensors tensors;
  std::string name;  // the folder's
  std::string path;  // as given, for messages
  std::string config_path;
  std::vector<MappedFile> files;  // everything that was read
};

/// Opens a folder with adapter_config.json and adapter_model.safetensors or .bin. Kinds of adapters
/// that a low-rank update of a GGUF file does not say are an Error naming the key.
PeftAdapter open_peft(const std::filesystem::path& folder);

/// The adapter as a GGUF file (model/adapter.h) for a base of that format, low-rank updates in
/// `type`, which is a plain one. A tensor that belongs to no matrix, vector or gate of the base, of
/// the wrong shape or a half of an update without the other is an Error naming it. `adapter` must
/// outlive the result.
Conversion plan_adapter(const PeftAdapter& adapter, const Gguf& base, DType type);

}  // namespace vga
