#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"
#include "gguf/gguf_writer.h"
#include "vga/config.h"
#include "vga/dtype.h"
#include "vga/tokenizer.h"

namespace vga {

/// How GoogleTest shows and names a gate, in every test alike.
inline void PrintTo(const AttentionGate& gate, std::ostream* out) {
  *out << name(gate.source);
  if (gate) *out << '_' << name(gate.placement) << '_' << name(gate.granularity);
}

}  // namespace vga

namespace vga::test {

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}
inline std::string raw_string(std::string_view text) {
  return raw<uint64_t>(text.size()) + std::string(text);
}

/// A GGUF file in memory, written independently of GgufWriter, in which anything can be wrong.
struct GgufImage {
  struct Value {
    std::string key;
    GgufType type;
    std::string payload;  // as in the file, behind the type
  };
  struct TensorImage {
    std::string name;
    std::vector<uint64_t> dims;  // dims[0] runs fastest
    uint32_t type = 0;
    std::string data;
    std::optional<uint64_t> offset;  // instead of the right one
  };

  std::string magic = "GGUF";
  uint32_t version = 3;
  std::optional<uint64_t> n_values;  // instead of the right counts
  std::optional<uint64_t> n_tensors;
  uint64_t alignment = 32;  // used for the layout; not written as a key by itself
  std::vector<Value> values;
  std::vector<TensorImage> tensors;
  std::string trailing;

  Value* find(std::string_view key);
  TensorImage* find_tensor(std::string_view name);
  void remove(std::string_view key);
  void remove_tensor(std::string_view name);

  /// Adds the key or replaces its value.
  void set(std::string_view key, GgufType type, std::string payload);
  void set(std::string_view key, uint32_t value) { set(key, GgufType::u32, raw(value)); }
  void set(std::string_view key, float value) { set(key, GgufType::f32, raw(value)); }
  void set(std::string_view key, std::string_view value) {
    set(key, GgufType::string, raw_string(value));
  }
  void set(std::string_view key, bool value) {
    set(key, GgufType::boolean, raw(static_cast<uint8_t>(value)));
  }
  void set(std::string_view key, const char* value) { set(key, std::string_view(value)); }
  void set_array(std::string_view key, GgufType element, uint64_t count, std::string_view payload);
  void set_strings(std::string_view key, const std::vector<std::string>& values);

  /// Adds the tensor that llama3 scaling is stored as, or one of longrope's.
  void set_rope_factors(const std::vector<float>& factors,
                        const std::string& name = "rope_freqs.weight");

  std::string bytes() const;
};

/// How many tokens the models below have, if nothing else is asked for.
constexpr size_t tiny_vocab = 32;

/// A tiny gated model with random weights, a tokenizer of `vocab` tokens (at least 16) and every
/// key a good file has. `head_dim` is even.
GgufImage tiny_model(size_t vocab = tiny_vocab, AttentionGate gate = {AttentionGate::Source::value},
                     size_t head_dim = 8);

/// A tiny model of any family with random weights and bare token ids: `keys` adds metadata without
/// "<family>.", `tensors` says which optional ones there are. It has tiny_vocab
/// tokens, 24 numbers wide states, 4 heads of 8 over 2 KV heads, and is trained for 96 tokens.
GgufImage family_model(const std::string& family, size_t n_layers,
                       const std::function<void(GgufImage&)>& keys,
                       const std::function<void(Config&)>& tensors);

/// A tiny qwen35: three delta nets (2 key heads, 4 value heads of 8, 4 taps) and one attention. Or
/// a tiny qwen35moe, with 4 experts of which 2 are used.
GgufImage hybrid_model(size_t vocab = tiny_vocab, bool has_experts = false);
/// The same with 48 tokens, most of them letters.
GgufImage talking_hybrid_model(bool has_experts = false);

/// A directory that is removed with everything in it when the test is over.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory();

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(std::string_view name, std::string_view bytes) const;

 private:
  std::filesystem::path path_;
};

/// The tokenizer of an image, as of a file "v.gguf".
Tokenizer tokenizer_of(const GgufImage& image);

}  // namespace vga::test
