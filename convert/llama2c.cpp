#include "llama2c.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "model/families.h"
#include "vga/error.h"

namespace vga {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is read in place");

constexpr size_t header_size = 7 * sizeof(int32_t);
constexpr int32_t newer_magic = 0x616b3432;  // "ak42": versions 1 and 2, which start differently

Config parse_header(std::span<const std::byte> bytes, std::string_view where) {
  std::array<int32_t, 7> header{};
  if (bytes.size() < header_size) throw Error(where, "too small for a llama2.c file");
  std::memcpy(header.data(), bytes.data(), header_size);
  if (header[0] == newer_magic) {
    throw Error(where, "a llama2.c file of version " + std::to_string(header[1]) +
                           "; only the first format (float32, export.py --version 0) is read");
  }
  constexpr std::array<const char*, 7> names = {"dim",        "hidden_dim", "n_layers", "n_heads",
                                                "n_kv_heads", "vocab_size", "seq_len"};
  for (size_t i = 0; i < header.size(); ++i) {
    // A negative vocab_size marks a classifier of its own.
    const bool negative = header[i] < 0 && (i != 5 || header[i] == INT32_MIN);
    if (header[i] == 0 || negative) {
      throw Error(where, "not a checkpoint we know: read as a llama2.c file, its " +
                             std::string(names[i]) + " would be " + std::to_string(header[i]));
    }
  }
  Config c = *family_options("llama");
  c.hidden_size = static_cast<size_t>(header[0]);
  c.ffn_size = static_cast<size_t>(header[1]);
  c.n_heads = static_cast<size_t>(header[3]);
  c.n_kv_heads = static_cast<size_t>(header[4]);
  c.vocab_size = static_cast<size_t>(header[5] < 0 ? -header[5] : header[5]);
  c.context_length = static_cast<size_t>(header[6]);
  c.tied_embeddings = header[5] > 0;
  if (c.hidden_size % c.n_heads != 0) {
    throw Error(where, "dim " + std::to_string(c.hidden_size) + " is not a multiple of n_heads " +
                           std::to_string(c.n_heads));
  }
  c.head_dim = c.hidden_size / c.n_heads;
  c.rope_dim = c.head_dim;
  set_layers(c, static_cast<size_t>(header[2]));
  validate(c, where);
  return c;
}

/// Hands out the weights one after the other.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string_view where)
      : bytes_(bytes), where_(where), at_(header_size) {}

  /// The validated Config keeps every product below 2^54.
  const std::byte* take(const std::string& what, uint64_t elements) {
    const uint64_t size = elements * sizeof(float);
    if (size > bytes_.size() - at_) {
      throw Error(where_, "wants " + std::to_string(size) + " bytes of '" + what + "' at offset " +
                              std::to_string(at_) + ", " + std::to_string(bytes_.size() - at_) +
                              " are left; is the file cut off?");
    }
    at_ += size;
    return bytes_.data() + (at_ - size);
  }
  uint64_t left() const { return bytes_.size() - at_; }

 private:
  std::span<const std::byte> bytes_;
  std::string_view where_;
  uint64_t at_;
};

SourceTensor float_tensor(const std::byte* data, std::vector<uint64_t> shape) {
  auto strides = contiguous_strides(shape);
  return {"f32", DType::f32, std::move(shape), std::move(strides), data};
}

}  // namespace

Llama2c parse_llama2c(std::span<const std::byte> bytes, std::string_view where) {
  Llama2c model{parse_header(bytes, where), {}};
  const Config& c = model.config;
  Cursor in(bytes, where);
  const auto matrix = [&](const std::string& name, uint64_t rows, uint64_t cols) {
    model.tensors.emplace(name, float_tensor(in.take(name, rows * cols), {rows, cols}));
  };
  const auto vector = [&](const std::string& name, uint64_t size) {
    model.tensors.emplace(name, float_tensor(in.take(name, size), {size}));
  };
  // One weight of all layers, then the next.
  const auto each_layer = [&](const std::string& name, auto&& add) {
    for (size_t i = 0; i < c.n_layers(); ++i) {
      add("model.layers." + std::to_string(i) + "." + name + ".weight");
    }
  };
  const auto matrices = [&](const std::string& name, uint64_t rows, uint64_t cols) {
    each_layer(name, [&](const std::string& full) { matrix(full, rows, cols); });
  };
  const auto vectors = [&](const std::string& name) {
    each_layer(name, [&](const std::string& full) { vector(full, c.hidden_size); });
  };
  matrix("model.embed_tokens.weight", c.vocab_size, c.hidden_size);
  vectors("input_layernorm");
  matrices("self_attn.q_proj", c.q_size(), c.hidden_size);
  matrices("self_attn.k_proj", c.kv_size(), c.hidden_size);
  matrices("self_attn.v_proj", c.kv_size(), c.hidden_size);
  matrices("self_attn.o_proj", c.hidden_size, c.q_size());
  vectors("post_attention_layernorm");
  matrices("mlp.gate_proj", c.ffn_size, c.hidden_size);
  matrices("mlp.down_proj", c.hidden_size, c.ffn_size);
  matrices("mlp.up_proj", c.ffn_size, c.hidden_size);
  vector("model.norm.weight", c.hidden_size);
  in.take("freq_cis_real", c.context_length * c.head_dim / 2);
  in.take("freq_cis_imag", c.context_length * c.head_dim / 2);
  if (!c.tied_embeddings) matrix("lm_head.weight", c.vocab_size, c.hidden_size);
  if (in.left() != 0) {
    throw Error(where,
                std::to_string(in.left()) + " bytes behind the last weight belong to nothing");
  }
  return model;
}

}  // namespace vga
