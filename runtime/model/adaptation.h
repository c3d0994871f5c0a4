#pragma once

#include <deque>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/adapter.h"
#include "model/weights.h"
#include "vga/vga.h"

namespace vga {

/// A tensor of an adapted model that is not its base's.
struct AdaptedTensor {
  size_t layer;  // or WeightSpec::no_layer
  Tensor* tensor;
  bool is_matrix;
};

/// Adapters fitted to a base. What several add to one matrix is one update, whose rank is the sum
/// of theirs.
class Adaptation {
 public:
  /// An Error naming file and tensor or key for what does not belong to a base of this Config.
  Adaptation(const Config& base, const std::string& base_file,
             std::span<const AdapterOptions> adapters);
  Adaptation(const Adaptation&) = delete;
  Adaptation& operator=(const Adaptation&) = delete;

  /// The base's, with the gate that an adapter gives it.
  const Config& config() const { return config_; }
  std::span<const Adapter> adapters() const { return adapters_; }
  uint64_t tensor_bytes() const;

  /// What takes the place of a tensor of the base, or is new; null where nothing does.
  const GgufTensor* whole(std::string_view tensor) const;
  /// What is added to a matrix; empty where nothing is.
  LowRank update(std::string_view tensor) const;

  /// Gives the base's weights what adapters have for them. They view memory of this object then.
  std::vector<AdaptedTensor> apply(Weights& weights) const;

 private:
  /// Updates of one matrix, before they are one.
  struct Part {
    const Adapter* adapter;
    const Adapter::Update* update;
    float scale;
  };
  using Specs = std::map<std::string, WeightSpec, std::less<>>;
  void check_update(const Adapter& adapter, const Adapter::Update& update,
                    const Specs& specs) const;
  void take_whole(const Adapter& adapter, const GgufTensor& tensor, const Specs& specs);
  LowRank joined(std::span<const Part> parts);
  Tensor stored(std::span<const float> values, size_t rows, size_t cols);

  Config config_;
  std::string base_file_;
  std::vector<Adapter> adapters_;
  const Adapter* gate_of_ = nullptr;  // the adapter that brings the gate
  std::map<std::string, const GgufTensor*, std::less<>> whole_;
  std::map<std::string, LowRank, std::less<>> updates_;
  std::deque<std::vector<std::byte>> memory_;  // what updates_ view
};

/// `row` of a matrix plus what the update adds to it: row += b[r] a.
void add_update(const LowRank& update, size_t r, std::span<float> row);

}  // namespace vga
