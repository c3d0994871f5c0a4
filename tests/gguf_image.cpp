#include "gguf_image.h"

#include <algorithm>
#include <cmath>
#include <random>

#include <unistd.h>

#include "model/families.h"
#include "model/weights.h"

namespace vga::test {

GgufImage::Value* GgufImage::find(std::string_view key) {
  const auto at = std::ranges::find(values, key, &Value::key);
  return at == values.end() ? nullptr : &*at;
}

GgufImage::TensorImage* GgufImage::find_tensor(std::string_view name) {
  const auto at = std::ranges::find(tensors, name, &TensorImage::name);
  return at == tensors.end() ? nullptr : &*at;
}

void GgufImage::remove(std::string_view key) {
  std::erase_if(values, [&](const Value& value) { return value.key == key; });
}

void GgufImage::remove_tensor(std::string_view name) {
  std::erase_if(tensors, [&](const TensorImage& tensor) { return tensor.name == name; });
}

void GgufImage::set(std::string_view key, GgufType type, std::string payload) {
  Value* value = find(key);
  if (value == nullptr) value = &values.emplace_back(Value{std::string(key), type, {}});
  value->type = type;
  value->payload = std::move(payload);
}

void GgufImage::set_array(std::string_view key, GgufType element, uint64_t count,
                          std::string_view payload) {
  set(key, GgufType::array,
      raw(static_cast<uint32_t>(element)) + raw(count) + std::string(payload));
}

void GgufImage::set_strings(std::string_view key, const std::vector<std::string>& strings) {
  std::string payload;
  for (const std::string& text : strings) payload += raw_string(text);
  set_array(key, GgufType::string, strings.size(), payload);
}

void GgufImage::set_rope_factors(const std::vector<float>& factors, const std::string& name) {
  TensorImage tensor{name, {factors.size()}, 0, {}, {}};
  for (const float factor : factors) tensor.data += raw(factor);
  tensors.push_back(std::move(tensor));
}

std::string GgufImage::bytes() const {
  const auto pad = [&](std::string& text) {
    if (alignment > 0) text.append((alignment - text.size() % alignment) % alignment, '\0');
  };
  std::string header = magic + raw(version) + raw(n_tensors.value_or(tensors.size())) +
                       raw(n_values.value_or(values.size()));
  for (const Value& value : values) {
    header += raw_string(value.key) + raw(static_cast<uint32_t>(value.type)) + value.payload;
  }
  std::string data;
  for (const TensorImage& tensor : tensors) {
    header += raw_string(tensor.name) + raw(static_cast<uint32_t>(tensor.dims.size()));
    for (const uint64_t dim : tensor.dims) header += raw(dim);
    header += raw(tensor.type) + raw(tensor.offset.value_or(data.size()));
    data += tensor.data;
    pad(data);
  }
  pad(header);
  return header + data + trailing;
}

GgufImage tiny_model(size_t vocab, AttentionGate gate, size_t head_dim) {
  Config config = *family_options("vga");
  config.model_name = "tiny";
  config.vocab_size = vocab;
  config.context_length = 64;
  config.hidden_size = 24;
  config.ffn_size = 40;
  config.n_heads = 4;
  config.n_kv_heads = 2;
  config.head_dim = head_dim;
  set_layers(config, 2);
  config.rope_dim = head_dim;
  config.tied_embeddings = true;
  config.gate = gate;

  GgufImage image;
  image.set("general.architecture", "vga");
  image.set("general.name", "tiny");
  const auto number = [&](std::string_view key, size_t value) {
    image.set("vga." + std::string(key), static_cast<uint32_t>(value));
  };
  number("vocab_size", config.vocab_size);
  number("context_length", config.context_length);
  number("embedding_length", config.hidden_size);
  number("feed_forward_length", config.ffn_size);
  number("block_count", config.n_layers());
  number("attention.head_count", config.n_heads);
  number("attention.head_count_kv", config.n_kv_heads);
  number("attention.key_length", config.head_dim);
  number("attention.value_length", config.head_dim);
  number("rope.dimension_count", config.rope_dim);
  image.set("vga.rope.freq_base", 10000.0f);
  image.set("vga.attention.layer_norm_rms_epsilon", 1e-5f);
  image.set("vga.attention.gate.source", name(gate.source));
  image.set("vga.attention.gate.placement", name(gate.placement));
  image.set("vga.attention.gate.granularity", name(gate.granularity));

  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", "\xE2\x96\x81"};  // ▁
  while (tokens.size() < vocab) {
    const size_t i = tokens.size() - 4;
    tokens.push_back(i < 26 ? std::string(1, static_cast<char>('a' + i)) : "x" + std::to_string(i));
  }
  tokens.resize(vocab);
  std::string scores;
  std::string types;
  for (size_t i = 0; i < vocab; ++i) {
    scores += raw(-static_cast<float>(i));
    types += raw<int32_t>(i == 0 ? 2 : i < 3 ? 3 : 1);  // unknown, control, normal
  }
  image.set("tokenizer.ggml.model", "llama");
  image.set_strings("tokenizer.ggml.tokens", tokens);
  image.set_array("tokenizer.ggml.scores", GgufType::f32, vocab, scores);
  image.set_array("tokenizer.ggml.token_type", GgufType::i32, vocab, types);

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const WeightSpec& spec : weight_specs(config)) {
    const auto shape = spec.shape();
    GgufImage::TensorImage tensor{spec.name, {shape.rbegin(), shape.rend()}, 0, {}, {}};
    for (size_t i = 0; i < spec.rows * spec.cols; ++i) {
      tensor.data += raw(spec.is_vector() ? 1.0f : normal(random) * 0.3f);
    }
    image.tensors.push_back(std::move(tensor));
  }
  return image;
}

GgufImage family_model(const std::string& family, size_t n_layers,
                       const std::function<void(GgufImage&)>& keys,
                       const std::function<void(Config&)>& tensors) {
  GgufImage image;
  image.set("general.architecture", family);
  const auto number = [&](std::string_view key, uint32_t value) {
    image.set(family + "." + std::string(key), value);
  };
  number("vocab_size", 32);
  number("context_length", 96);
  number("embedding_length", 24);
  number("feed_forward_length", 40);
  number("block_count", static_cast<uint32_t>(n_layers));
  number("attention.head_count", 4);
  number("attention.head_count_kv", 2);
  number("attention.key_length", 8);
  number("attention.value_length", 8);
  for (const char* key : {"attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"}) {
    image.set(family + "." + key, 1e-5f);
  }
  keys(image);

  // The tensors are those that the metadata asks for, and those that no key speaks of.
  const TemporaryDirectory directory;
  Config config = read_config(Gguf::open(directory.write("keys.gguf", image.bytes())));
  tensors(config);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (const WeightSpec& spec : weight_specs(config)) {
    if (image.find_tensor(spec.name) != nullptr) continue;
    const auto shape = spec.shape();
    GgufImage::TensorImage tensor{spec.name, {shape.rbegin(), shape.rend()}, 0, {}, {}};
    const float size = spec.role == Role::embedding || spec.role == Role::positions ? 0.5f
                       : spec.is_vector()                                           ? 0.25f
                                          : 1.5f / std::sqrt(static_cast<float>(spec.cols));
    const float mean = spec.role == Role::norm ? 1 : spec.role == Role::decay_scale ? -1 : 0;
    for (size_t i = 0; i < spec.rows * spec.cols; ++i)
      tensor.data += raw(mean + normal(random) * size);
    image.tensors.push_back(std::move(tensor));
  }
  return image;
}

GgufImage hybrid_model(size_t vocab, bool has_experts) {
  const std::string family = has_experts ? "qwen35moe" : "qwen35";
  const auto keys = [&](GgufImage& image) {
    const auto set = [&](const char* key, uint32_t value) { image.set(family + "." + key, value); };
    set("vocab_size", vocab);
    set("context_length", 400);
    set("ssm.conv_kernel", 4);
    set("ssm.state_size", 8);
    set("ssm.group_count", 2);
    set("ssm.time_step_rank", 4);
    set("ssm.inner_size", 32);
    if (!has_experts) return;
    set("embedding_length", 32);
    set("expert_count", 4);
    set("expert_used_count", 2);
    set("expert_feed_forward_length", 16);
    set("expert_shared_feed_forward_length", 8);
  };
  return family_model(family, 4, keys, [](Config&) {});
}

GgufImage talking_hybrid_model(bool has_experts) {
  constexpr size_t vocab = 48;
  GgufImage image = hybrid_model(vocab, has_experts);
  std::vector<std::string> tokens = {"<unk>",        "<s>",        "</s>",
                                     "<|im_start|>", "<|im_end|>", "\xE2\x96\x81"};
  const size_t n_marks = tokens.size() - 1;
  for (char c = 'a'; c <= 'z'; ++c) tokens.push_back(std::string(1, c));
  for (char c = 'A'; tokens.size() < vocab; ++c) tokens.push_back(std::string(1, c));
  std::string types;
  for (size_t i = 0; i < vocab; ++i) types += raw<int32_t>(i == 0 ? 2 : i < n_marks ? 3 : 1);
  image.set("tokenizer.ggml.model", "llama");
  image.set_strings("tokenizer.ggml.tokens", tokens);
  image.set_array("tokenizer.ggml.scores", GgufType::f32, vocab, std::string(vocab * 4, '\0'));
  image.set_array("tokenizer.ggml.token_type", GgufType::i32, vocab, types);
  image.set("tokenizer.ggml.bos_token_id", uint32_t{1});
  image.set("tokenizer.ggml.eos_token_id", uint32_t{2});
  return image;
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "vga-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path TemporaryDirectory::write(std::string_view name,
                                                std::string_view bytes) const {
  std::ofstream out(path_ / name, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path_ / name;
}

Tokenizer tokenizer_of(const GgufImage& image) {
  const TemporaryDirectory directory;
  return Tokenizer::from_gguf(Gguf::open(directory.write("v.gguf", image.bytes())));
}

}  // namespace vga::test
