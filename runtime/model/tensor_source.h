#pragma once

#include <memory>
#include <span>

#include "gguf/gguf.h"
#include "vga/vga.h"

namespace vga {

/// What a Model is made of: metadata and tensors. A GGUF file is one, and so is a file whose
/// tensors are seen through something, a rounding of weights for example.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  /// Metadata and tokenizer.
  virtual const Gguf& file() const = 0;
  /// As read_config() says if the source changes nothing.
  virtual Config config() const = 0;
  virtual std::span<const GgufTensor> tensors() const = 0;
  /// Part of a tensor will not be read again for a while.
  virtual void release(std::span<const std::byte> part) const = 0;
};

/// The file as it is.
class FileSource : public TensorSource {
 public:
  explicit FileSource(Gguf gguf);

  const Gguf& file() const override { return gguf_; }
  Config config() const override;
  std::span<const GgufTensor> tensors() const override { return gguf_.tensors(); }
  void release(std::span<const std::byte> part) const override { gguf_.release(part); }

 private:
  Gguf gguf_;
};

/// Loads a model as Model::load() does.
Model load_model_from(std::unique_ptr<const TensorSource> source, const ModelOptions& options);

}  // namespace vga
