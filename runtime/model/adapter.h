#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"
#include "vga/config.h"

namespace vga {

/// A GGUF file with what changes a model, in llama.cpp's convention: `general.type` adapter,
/// `adapter.type` lora, the low-rank update of tensor NAME as NAME.lora_a (rank, inputs) and
/// NAME.lora_b (outputs, rank). Beside those it may hold what llama.cpp does not know: a gate, its
/// keys and tensors as a gated model has them, and vectors that replace those of the model.
class Adapter {
 public:
  /// The update of a tensor.
  struct Update {
    std::string_view tensor;  // "blk.0.attn_q.weight"
    const GgufTensor* a;      // (rank, inputs)
    const GgufTensor* b;      // (outputs, rank)

    size_t rank() const { return a->dims[1]; }
  };

  /// An Error if the file is no adapter, one of another kind, or has half an update.
  explicit Adapter(Gguf file);
  /// Whether the file says that it is an adapter, whatever else is wrong with it.
  static bool is_adapter(const Gguf& file);

  const Gguf& file() const { return file_; }
  /// The architecture of its base.
  const std::string& family() const { return family_; }
  /// What updates are multiplied by, divided by their rank; 0 is by nothing.
  float alpha() const { return alpha_; }
  float scale_of(const Update& update) const;
  /// The gate that it gives its base; none if it leaves that as it is.
  const AttentionGate& gate() const { return gate_; }
  /// In file order.
  std::span<const Update> updates() const { return updates_; }
  /// Gates and vectors, in file order.
  std::span<const GgufTensor* const> whole_tensors() const { return whole_; }
  uint64_t tensor_bytes() const;

 private:
  void check_keys() const;
  void add_update(std::string_view tensor);

  Gguf file_;
  std::string family_;
  float alpha_ = 0;
  AttentionGate gate_;
  std::vector<Update> updates_;
  std::vector<const GgufTensor*> whole_;
};

}  // namespace vga
