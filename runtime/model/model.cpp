#include "model/model.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <future>
#include <map>
#include <numeric>
#include <utility>

#include "base/memory.h"
#include "compute/device_choice.h"
#include "cpu/cpu_device.h"
#include "tokenizer/vocabulary.h"

namespace vga {
namespace {

constexpr std::string_view tokenizer_key = vocabulary_key::model;

/// Puts the first layers on the device that the options ask for; null if they ask for the CPU.
/// `layers` and `why_cpu` say what became of it.
std::unique_ptr<const Device> place_on_device(Weights& weights, const Config& config,
                                              const ModelOptions& options, LayerRange& layers,
                                              std::string& why_cpu) {
  const WantedDevice device = wanted_device(options.device);
  if (device.name == "cpu" || options.device_layers == 0) return nullptr;
  try {
    const std::vector<vulkan::DeviceInfo> devices = vulkan::devices();
    const size_t index = choose_device(devices, device);
    const LayerRange wanted = {0, std::min<size_t>(options.device_layers, config.n_layers())};
    Weights placed = weights;  // as they are, should there be no room
    auto loaded =
        vulkan::load(index, placed, config, wanted,
                     session_bytes(config, options.session, wanted.end), options.progress);
    weights = std::move(placed);
    layers = wanted;
    return loaded;
  } catch (const Error& error) {
    if (device.name != "auto") throw;
    why_cpu = error.what();
    return nullptr;
  }
}

/// An Error if there is no room in memory for what is read in or arranged anew of a file.
void check_weights(const std::string& file, uint64_t bytes) {
  check_memory(bytes, file, "vga-quantize makes smaller files");
}

/// Bytes of the matrices that the CPU multiplies by.
uint64_t host_bytes(const Config& config, Weights& weights) {
  uint64_t bytes = weights.output.weight.on_device ? 0 : weights.output.weight.bytes();
  visit_weights(weights, config, [&](const WeightSpec& spec, std::span<const WeightPart> parts) {
    if (spec.layer == WeightSpec::no_layer || !spec.is_matrix()) return;
    for (const WeightPart& part : parts) {
      if (!part.tensor->on_device) bytes += part.tensor->bytes();
    }
  });
  return bytes;
}

}  // namespace

std::optional<Tokenizer> read_tokenizer(const Gguf& gguf, const Config& config,
                                        std::string_view pre) {
  if (gguf.find(tokenizer_key) == nullptr) return std::nullopt;
  Tokenizer tokenizer = Tokenizer::from_gguf(gguf, pre);
  if (tokenizer.vocab_size() != config.vocab_size) {
    throw Error(gguf.file_name(), "key 'tokenizer.ggml.tokens': wanted one token for each of the " +
                                      std::to_string(config.vocab_size) +
                                      " rows of 'token_embd.weight', found " +
                                      std::to_string(tokenizer.vocab_size()));
  }
  return tokenizer;
}

Model::Model(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::load(const std::filesystem::path& path, const ModelOptions& options) {
  std::error_code no_size;  // Gguf::open() says why
  const uint64_t file_size = std::filesystem::file_size(path, no_size);
  if (!options.mmap && !no_size) check_weights(path.string(), file_size);
  const auto access = options.mmap ? MappedFile::Access::map : MappedFile::Access::read;
  return load_model_from(std::make_unique<FileSource>(Gguf::open(path, access)), options);
}

Model load_model_from(std::unique_ptr<const TensorSource> source, const ModelOptions& options) {
  auto base = std::make_shared<Base>();
  base->source = std::move(source);
  base->config = base->source->config();
  const Config& config = base->config;
  base->weights = bind_weights(base->source->file().file_name(), base->source->tensors(), config);
  // A large vocabulary takes as long as the weights: one is read while the others are arranged.
  auto tokenizer =
      std::async(std::launch::async, [&file = base->source->file(), &config, &options] {
        return read_tokenizer(file, config, options.pre);
      });
  LayerRange on_device = {0, 0};
  auto device = place_on_device(base->weights, config, options, on_device, base->why_cpu);
  if (device != nullptr) base->parts.push_back({on_device, std::move(device)});
  if (on_device.end < config.n_layers()) {
    // Kernels that want panels arrange the weights anew; what was read in goes meanwhile.
    if (options.mmap && cpu::best_kernels().lanes > 0) {
      check_weights(base->source->file().file_name(), host_bytes(config, base->weights));
    }
    const std::byte* embedding = base->weights.token_embd.data;
    const auto done = [&](const Tensor& matrix, std::span<const std::byte> band) {
      // What a tied embedding was read in from is read again, row by row.
      if (options.mmap || matrix.data != embedding) base->source->release(band);
    };
    const LayerRange rest = {on_device.end, config.n_layers()};
    base->parts.push_back(
        {rest, std::make_unique<cpu::CpuDevice>(base->weights, config, rest,
                                                options.session.n_threads, done)});
  }
  base->tokenizer = tokenizer.get();
  auto impl = std::make_unique<Model::Impl>();
  impl->config = base->config;
  impl->weights = base->weights;
  impl->base = std::move(base);
  Model model(std::move(impl));
  return options.adapters.empty() ? std::move(model) : model.with_adapters(options.adapters);
}

Model Model::with_adapters(std::span<const AdapterOptions> adapters) const {
  const Base& base = *impl_->base;
  auto impl = std::make_unique<Impl>();
  impl->base = impl_->base;
  impl->config = base.config;
  impl->weights = base.weights;
  if (adapters.empty()) return Model(std::move(impl));
  impl->adaptation = std::make_unique<Adaptation>(base.config, file_name(), adapters);
  impl->config = impl->adaptation->config();
  const std::vector<AdaptedTensor> adapted = impl->adaptation->apply(impl->weights);
  for (const auto& [layers, device] : base.parts) {
    const bool has_last = layers.end == base.config.n_layers();
    std::vector<Tensor*> matrices;
    std::vector<Tensor*> vectors;
    for (const auto& [layer, tensor, is_matrix] : adapted) {
      const bool is_theirs =
          layer == WeightSpec::no_layer ? has_last : layer >= layers.first && layer < layers.end;
      if (is_theirs) (is_matrix ? matrices : vectors).push_back(tensor);
    }
    impl->adapted.push_back(device->place(matrices, vectors));
  }
  return Model(std::move(impl));
}

const Config& Model::config() const {
  return impl_->config;
}
const Tokenizer& Model::tokenizer() const {
  if (!impl_->base->tokenizer) {
    throw Error(file_name(), "key '" + std::string(tokenizer_key) +
                                 "' is missing: without a tokenizer this model takes token ids "
                                 "alone");
  }
  return *impl_->base->tokenizer;
}
const std::string& Model::file_name() const {
  return impl_->base->source->file().file_name();
}

std::string_view Model::chat_template() const {
  return impl_->base->source->file().string("tokenizer.chat_template").value_or("");
}

uint64_t Model::weight_bytes() const {
  uint64_t bytes = impl_->adaptation ? impl_->adaptation->tensor_bytes() : 0;
  for (const GgufTensor& tensor : impl_->base->source->tensors()) bytes += tensor.data.size();
  return bytes;
}

const std::string& Model::why_cpu() const {
  return impl_->base->why_cpu;
}

uint64_t Model::bytes_per_token() const {
  const Config& c = impl_->config;
  uint64_t bytes = weight_bytes() - (c.tied_embeddings ? 0 : impl_->weights.token_embd.bytes());
  for (const BlockWeights& block : impl_->weights.blocks) {
    for (const Linear* linear : {&block.experts.gate, &block.experts.up, &block.experts.down}) {
      if (linear->weight)
        bytes -= linear->weight.bytes() / c.experts.n * (c.experts.n - c.experts.n_used);
    }
  }
  return bytes;
}

uint64_t Model::parameters() const {
  uint64_t count = 0;
  for (const WeightSpec& spec : weight_specs(impl_->base->config)) count += spec.rows * spec.cols;
  return count;
}

std::string Model::description() const {
  std::map<uint32_t, uint64_t> elements;  // by GGUF type
  for (const GgufTensor& tensor : impl_->base->source->tensors()) {
    elements[tensor.type] +=
        std::accumulate(tensor.dims.begin(), tensor.dims.end(), uint64_t{1}, std::multiplies());
  }
  const auto most = std::ranges::max_element(elements, {}, [](const auto& e) { return e.second; });
  const auto millions = static_cast<double>(parameters()) / 1e6;
  char count[32];
  std::snprintf(count, sizeof count, millions < 999.5 ? "%.3gM" : "%.3gB",
                millions < 999.5 ? millions : millions / 1000);
  std::string text =
      impl_->config.family + ' ' + std::string(count) + ' ' + gguf_type_name(most->first);
  if (impl_->adaptation == nullptr) return text;
  for (const Adapter& adapter : impl_->adaptation->adapters()) {
    text += " + " + std::filesystem::path(adapter.file().file_name()).stem().string();
  }
  return text;
}

}  // namespace vga
