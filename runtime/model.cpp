#include "model.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "vocabulary.h"

namespace vga {
namespace {

constexpr std::string_view tokenizer_key = vocabulary_key::model;

}  // namespace

Model::Model(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::load(const std::filesystem::path& path, const ModelOptions& options) {
  Gguf gguf = Gguf::open(path, options.mmap ? MappedFile::Access::map : MappedFile::Access::read);
  Config config = read_config(gguf);
  Weights weights = bind_weights(gguf, config);
  std::optional<Tokenizer> tokenizer;
  if (gguf.find(tokenizer_key) != nullptr) tokenizer = Tokenizer::from_gguf(gguf);
  if (tokenizer && tokenizer->vocab_size() != config.vocab_size) {
    throw Error(gguf.file_name(), "key 'tokenizer.ggml.tokens': wanted one token for each of the " +
                                      std::to_string(config.vocab_size) +
                                      " rows of 'token_embd.weight', found " +
                                      std::to_string(tokenizer->vocab_size()));
  }
  const cpu::Kernels& kernels = cpu::best_kernels();
  std::optional<cpu::Panels> panels;
  if (kernels.panel_rows > 0) {
    cpu::ThreadPool threads(cpu::default_threads());
    panels.emplace(weights, kernels.panel_rows, threads, [&](const Tensor& matrix) {
      // What a tied embedding was read in from is read again, row by row.
      if (!options.mmap && matrix.data == weights.token_embd.data) return;
      gguf.release({matrix.data, matrix.bytes()});
    });
    weights = panels->weights();
  }
  return Model(
      std::make_unique<const Impl>(Impl{std::move(gguf), std::move(config), std::move(weights),
                                        std::move(tokenizer), kernels, std::move(panels)}));
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
  return (impl_->config.architecture == Config::Architecture::vga ? "vga " : "llama ") +
         std::string(count) + ' ' + gguf_type_name(most->first);
}

}  // namespace vga
