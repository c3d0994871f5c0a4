#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "added_tokens.h"
#include "base/file.h"
#include "source_tensor.h"
#include "token_settings.h"
#include "vga/config.h"

namespace vga {

/// A trained model as it lies on disk, whatever program wrote it. Tensors and tokenizer are views
/// of `files`, which must live as long; moving the Checkpoint is fine.
struct Checkpoint {
  Config config;
  std::string_view model_type = "llama";  // what transformers calls it, and so its tensors
  SourceTensors tensors;
  SourceTensors rope_tensors;              // what config.json says of RoPE, by their GGUF names
  std::vector<std::vector<float>> values;  // of rope_tensors
  /// Whether RoPE pairs the rows (2i, 2i + 1) of each head in Q and K, as llama2.c's files do.
  /// Hugging Face's pair (i, i + head_dim / 2).
  bool adjacent_pairs = false;
  std::span<const std::byte> tokenizer;  // bytes of the tokenizer.model or tokenizer.json, if any
  std::string tokenizer_name;            // its path, for messages
  AddedTokens added_tokens;              // what other files add to a tokenizer.model
  TokenSettings token_settings;          // what the JSON files say of its special tokens
  std::string chat_template;             // Jinja text; empty if the checkpoint has none
  std::string path;                      // as given, for messages
  std::vector<MappedFile> files;         // everything that was read
};

/// Opens
///  - a folder with config.json and model.safetensors, or pytorch_model.bin, or the index of one of
///    them and its shards, or a single weights file of another name, .pt, .pth, .ckpt or .bin;
///  - one such file with config.json beside it;
///  - a llama2.c float32 .bin file.
/// `tokenizer` is a tokenizer.model or a tokenizer.json; empty takes the one that lies beside the
/// weights, if one does, and of both the former, unless it is a file of tiktoken's.
/// Sizes and offsets are checked here; names and shapes when the conversion is planned.
Checkpoint open_checkpoint(const std::filesystem::path& path,
                           const std::filesystem::path& tokenizer);

}  // namespace vga
