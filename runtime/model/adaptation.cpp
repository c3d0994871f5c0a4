#include "model/adaptation.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "gguf/decode.h"
#include "gguf/encode.h"
#include "model/families.h"
#include "vga/error.h"

namespace vga {
namespace {

std::string where(const Adapter& adapter, std::string_view tensor) {
  return adapter.file().file_name() + ": tensor '" + std::string(tensor) + "'";
}

/// Whether an adapter may replace it: what is no matrix, and follows from no key.
bool is_replaceable(const WeightSpec& spec) {
  return spec.role == Role::norm || spec.role == Role::bias;
}

std::vector<float> decoded(const GgufTensor& tensor) {
  const DType type = dtype_from_gguf(tensor.type).value();
  const size_t cols = tensor.dims[0];
  std::vector<float> values(tensor.dims[0] * tensor.dims[1]);
  for (size_t r = 0; r < tensor.dims[1]; ++r) {
    decode_row(type, tensor.data.data() + r * row_bytes(type, cols),
               std::span(values).subspan(r * cols, cols));
  }
  return values;
}

/// Whether f16 holds all of them as they are.
bool fit_f16(std::span<const float> values) {
  return std::ranges::all_of(values, [](float x) { return f32_from_f16(f16_from_f32(x)) == x; });
}

}  // namespace

Adaptation::Adaptation(const Config& base, const std::string& base_file,
                       std::span<const AdapterOptions> options)
    : config_(base), base_file_(base_file) {
  for (const AdapterOptions& option : options) {
    if (!std::isfinite(option.scale)) {
      throw Error(option.path.string(),
                  "wanted a number to scale it by, found " + std::to_string(option.scale));
    }
    adapters_.emplace_back(Gguf::open(option.path));
  }
  for (const Adapter& adapter : adapters_) {
    const std::string& file = adapter.file().file_name();
    if (adapter.family() != base.family) {
      throw Error(file, "key 'general.architecture': wanted " + base.family + " as in " +
                            base_file + ", found '" + adapter.family() + "'");
    }
    if (!adapter.gate()) continue;
    if (gate_of_ != nullptr) {
      throw Error(file, "brings a gate, and so does " + gate_of_->file().file_name());
    }
    if (has_own_gate(base.family)) {
      throw Error(file, "brings a gate, and " + base_file_ + " has one as all of its family");
    }
    gate_of_ = &adapter;
    config_.gate = adapter.gate();
  }
  Specs specs;
  for (WeightSpec& spec : weight_specs(config_)) specs.emplace(spec.name, std::move(spec));
  std::map<std::string_view, std::vector<Part>> parts;
  for (size_t i = 0; i < adapters_.size(); ++i) {
    const Adapter& adapter = adapters_[i];
    for (const GgufTensor* tensor : adapter.whole_tensors()) take_whole(adapter, *tensor, specs);
    for (const Adapter::Update& update : adapter.updates()) {
      check_update(adapter, update, specs);
      parts[update.tensor].push_back(
          {&adapter, &update, options[i].scale * adapter.scale_of(update)});
    }
  }
  if (gate_of_ != nullptr) {
    for (const auto& [name, spec] : specs) {
      if (spec.is_gate() && whole(name) == nullptr) {
        throw Error(where(*gate_of_, name), "is missing, wanted " + bracketed(spec.shape()));
      }
    }
  }
  for (const auto& [name, of_tensor] : parts) updates_.emplace(name, joined(of_tensor));
}

void Adaptation::check_update(const Adapter& adapter, const Adapter::Update& update,
                              const Specs& specs) const {
  const auto found = specs.find(update.tensor);
  if (found == specs.end() || !found->second.takes_updates()) {
    throw Error(where(adapter, update.a->name),
                "changes no matrix that " + base_file_ + " multiplies by");
  }
  const WeightSpec& spec = found->second;
  const auto check = [&](const GgufTensor& half, std::array<uint64_t, 2> wanted) {
    if (std::ranges::equal(half.shape(), wanted)) return;
    throw Error(where(adapter, half.name), "wanted shape " + bracketed(wanted) + " for " +
                                               base_file_ + ", found " + bracketed(half.shape()));
  };
  check(*update.a, {update.rank(), spec.cols});
  check(*update.b, {spec.rows, update.rank()});
}

void Adaptation::take_whole(const Adapter& adapter, const GgufTensor& tensor, const Specs& specs) {
  const auto found = specs.find(tensor.name);
  const bool is_known = found != specs.end() && (is_replaceable(found->second) ||
                                                 (found->second.is_gate() && adapter.gate()));
  if (!is_known) {
    throw Error(where(adapter, tensor.name),
                "is no low-rank update, gate or vector of " + base_file_ +
                    (found != specs.end() && found->second.is_gate() ? " without the keys of a gate"
                                                                     : std::string()));
  }
  check_weight(&tensor, found->second, where(adapter, tensor.name));
  if (!whole_.emplace(tensor.name, &tensor).second) {
    throw Error(where(adapter, tensor.name), "is replaced by two adapters");
  }
}

/// Several updates as one: rows of a follow each other, and so do columns of b.
LowRank Adaptation::joined(std::span<const Part> parts) {
  const size_t inputs = parts[0].update->a->dims[0];
  const size_t outputs = parts[0].update->b->dims[1];
  size_t rank = 0;
  for (const Part& part : parts) rank += part.update->rank();
  std::vector<float> a;                  // (rank, inputs)
  std::vector<float> b(outputs * rank);  // (outputs, rank)
  size_t first = 0;
  for (const auto& [adapter, update, scale] : parts) {
    const std::vector<float> part_a = decoded(*update->a);
    const std::vector<float> part_b = decoded(*update->b);
    a.insert(a.end(), part_a.begin(), part_a.end());
    const size_t n = update->rank();
    for (size_t r = 0; r < outputs; ++r) {
      for (size_t i = 0; i < n; ++i) b[r * rank + first + i] = scale * part_b[r * n + i];
    }
    first += n;
  }
  return {stored(a, rank, inputs), stored(b, outputs, rank)};
}

/// As f16 where that loses nothing: a token reads half as much then.
Tensor Adaptation::stored(std::span<const float> values, size_t rows, size_t cols) {
  const DType type = fit_f16(values) ? DType::f16 : DType::f32;
  std::vector<std::byte>& bytes = memory_.emplace_back(rows * row_bytes(type, cols));
  for (size_t r = 0; r < rows; ++r) {
    encode_row(type, values.subspan(r * cols, cols), bytes.data() + r * row_bytes(type, cols));
  }
  return {.type = type, .rows = rows, .cols = cols, .data = bytes.data()};
}

uint64_t Adaptation::tensor_bytes() const {
  uint64_t bytes = 0;
  for (const Adapter& adapter : adapters_) bytes += adapter.tensor_bytes();
  return bytes;
}

const GgufTensor* Adaptation::whole(std::string_view tensor) const {
  const auto found = whole_.find(tensor);
  return found == whole_.end() ? nullptr : found->second;
}

LowRank Adaptation::update(std::string_view tensor) const {
  const auto found = updates_.find(tensor);
  return found == updates_.end() ? LowRank{} : found->second;
}

std::vector<AdaptedTensor> Adaptation::apply(Weights& weights) const {
  std::vector<AdaptedTensor> adapted;
  if (gate_of_ != nullptr) {
    for (BlockWeights& block : weights.blocks) block.attn_gate = {};
  }
  visit_weights(weights, config_, [&](const WeightSpec& spec, std::span<const WeightPart> parts) {
    if (const GgufTensor* tensor = whole(spec.name)) {
      bind_weight(*tensor, spec, parts);
      for (const WeightPart& part : parts) {
        adapted.push_back({spec.layer, part.tensor, spec.is_matrix()});
      }
    }
    const LowRank of_all = update(spec.name);
    size_t first = 0;
    for (const WeightPart& part : parts) {
      if (!of_all) break;
      LowRank& change = part.linear->change;
      change = {of_all.a, of_all.b.part(first, part.n)};
      adapted.push_back({spec.layer, &change.a, true});
      adapted.push_back({spec.layer, &change.b, true});
      first += part.n;
    }
  });
  return adapted;
}

void add_update(const LowRank& update, size_t r, std::span<float> row) {
  std::vector<float> factors(update.b.cols);  // (rank)
  std::vector<float> of_a(row.size());
  decode_row(update.b.type, update.b.row(r), factors);
  for (size_t i = 0; i < factors.size(); ++i) {
    decode_row(update.a.type, update.a.row(i), of_a);
    for (size_t c = 0; c < row.size(); ++c) row[c] += factors[i] * of_a[c];
  }
}

}  // namespace vga
