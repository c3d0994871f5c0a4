#include "model/model.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "base/memory.h"
#include "compute/device_choice.h"
#include "model/families.h"
#include "tokenizer/vocabulary.h"

namespace vga {
namespace {

constexpr std::string_view tokenizer_key = vocabulary_key::model;

/// What goes to a device with the first `n_layers`: those, the embeddings, and with the last layer
/// all that follows it.
std::vector<Tensor*> device_tensors(const Config& config, Weights& weights, size_t n_layers) {
  std::vector<Tensor*> tensors;
  visit_weights(weights, config, [&](const WeightSpec& spec, std::span<const WeightPart> parts) {
    const bool begins = spec.role == Role::embedding || spec.role == Role::positions;
    const bool ends = spec.layer == WeightSpec::no_layer && spec.role != Role::rope_factors;
    if (spec.layer < n_layers || begins || (ends && n_layers == config.n_layers())) {
      for (const WeightPart& part : parts) tensors.push_back(part.tensor);
    }
  });
  return tensors;
}

/// Puts the first layers on the device that the options ask for; null if they ask for the CPU.
/// `n_layers` and `why_cpu` say what became of it.
std::unique_ptr<vulkan::DeviceModel> load_on_device(const Config& config,
                                                    const ModelOptions& options, Weights& weights,
                                                    size_t& n_layers, std::string& why_cpu) {
  n_layers = 0;
  const WantedDevice device = wanted_device(options.device);
  if (device.name == "cpu" || options.device_layers == 0) return nullptr;
  try {
    const std::vector<vulkan::DeviceInfo> devices = vulkan::devices();
    const size_t index = choose_device(devices, device);
    const size_t wanted = std::min<size_t>(options.device_layers, config.n_layers());
    Weights placed = weights;  // as they are, should there be no room
    const std::vector<Tensor*> tensors = device_tensors(config, placed, wanted);
    auto loaded = vulkan::load(index, tensors, session_bytes(config, options.session, wanted),
                               options.progress);
    if (wanted == config.n_layers() && config.tied_embeddings) {
      placed.output.weight.on_device = placed.token_embd.on_device;
    }
    weights = std::move(placed);
    n_layers = wanted;
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
  Gguf gguf = Gguf::open(path, options.mmap ? MappedFile::Access::map : MappedFile::Access::read);
  Config config = read_config(gguf);
  Weights weights = bind_weights(gguf, config);
  std::optional<Tokenizer> tokenizer = read_tokenizer(gguf, config, options.pre);
  size_t device_layers = 0;
  std::string why_cpu;
  auto device = load_on_device(config, options, weights, device_layers, why_cpu);
  const cpu::Kernels& kernels = cpu::best_kernels();
  std::optional<cpu::Panels> panels;
  if (kernels.lanes > 0 && device_layers < config.n_layers()) {
    // What was read in goes as it is arranged.
    if (options.mmap) check_weights(path.string(), host_bytes(config, weights));
    const size_t n_threads = options.session.n_threads;
    cpu::ThreadPool threads(n_threads == 0 ? cpu::default_threads() : n_threads);
    const auto done = [&](const Tensor& matrix, std::span<const std::byte> band) {
      // What a tied embedding was read in from is read again, row by row.
      if (options.mmap || matrix.data != weights.token_embd.data) gguf.release(band);
    };
    panels.emplace(weights, config, kernels.lanes, threads, done);
    weights = panels->weights();
  }
  return Model(std::make_unique<const Impl>(
      Impl{std::move(gguf), std::move(config), std::move(weights), std::move(tokenizer), kernels,
           std::move(panels), std::move(device), device_layers, std::move(why_cpu)}));
}

const Config& Model::config() const {
  return impl_->config;
}
const Tokenizer& Model::tokenizer() const {
  if (!impl_->tokenizer) {
    throw Error(file_name(), "key '" + std::string(tokenizer_key) +
                                 "' is missing: without a tokenizer this model takes token ids "
                                 "alone");
  }
  return *impl_->tokenizer;
}
const std::string& Model::file_name() const {
  return impl_->gguf.file_name();
}

std::string_view Model::chat_template() const {
  return impl_->gguf.string("tokenizer.chat_template").value_or("");
}

uint64_t Model::weight_bytes() const {
  uint64_t bytes = 0;
  for (const GgufTensor& tensor : impl_->gguf.tensors()) bytes += tensor.data.size();
  return bytes;
}

const std::string& Model::why_cpu() const {
  return impl_->why_cpu;
}

uint64_t Model::bytes_per_token() const {
  return weight_bytes() - (impl_->config.tied_embeddings ? 0 : impl_->weights.token_embd.bytes());
}

uint64_t Model::parameters() const {
  uint64_t count = 0;
  for (const WeightSpec& spec : weight_specs(impl_->config)) count += spec.rows * spec.cols;
  return count;
}

std::string Model::description() const {
  std::map<uint32_t, uint64_t> elements;  // by GGUF type
  for (const GgufTensor& tensor : impl_->gguf.tensors()) {
    elements[tensor.type] +=
        std::accumulate(tensor.dims.begin(), tensor.dims.end(), uint64_t{1}, std::multiplies());
  }
  const auto most = std::ranges::max_element(elements, {}, [](const auto& e) { return e.second; });
  const auto millions = static_cast<double>(parameters()) / 1e6;
  char count[32];
  std::snprintf(count, sizeof count, millions < 999.5 ? "%.3gM" : "%.3gB",
                millions < 999.5 ? millions : millions / 1000);
  return impl_->config.family + ' ' + std::string(count) + ' ' + gguf_type_name(most->first);
}

}  // namespace vga
