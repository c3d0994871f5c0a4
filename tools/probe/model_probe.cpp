#include "probe/model_probe.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/terminal.h"

namespace vga {
namespace {

/// The tensors whose outliers count: those that Bondarenko et al. hook in OPT, under the names they
/// have here. The queries, keys and hidden units of the MLP are not among them.
bool counts_as_tensor(Site site) {
  switch (site) {
    case Site::attn_norm:
    case Site::attn_output:
    case Site::delta_output:
    case Site::ffn_norm:
    case Site::ffn_down:
    case Site::block:
    case Site::output_norm:
      return true;
    default:
      return false;
  }
}

double infinity_norm(std::span<const float> x) {
  double highest = 0;
  for (const float value : x) highest = std::max(highest, std::abs(double{value}));
  return highest;
}

/// Not the excess, and by the unbiased standard deviation, as the source has it.
double kurtosis(std::span<const float> x) {
  const auto n = static_cast<double>(x.size());
  const double center = mean(x);
  double squares = 0;
  double fourths = 0;
  for (const float value : x) {
    const double square = std::pow(value - center, 2);
    squares += square;
    fourths += square * square;
  }
  const double variance = squares / (n - 1);
  return fourths / n / (variance * variance + 1e-6);
}

/// Adds up over blocks; finish() divides.
class Measurement : public AttentionObserver {
 public:
  Measurement(const Config& config, size_t block_tokens, std::span<const Token> left_out)
      : config_(config), left_out_(left_out) {
    found.block_tokens = block_tokens;
    found.layers.resize(config.n_layers());
    for (size_t i = 0; i < found.layers.size(); ++i) {
      LayerProbe& layer = found.layers[i];
      if (config.layers[i].experts) layer.expert_load.resize(config.experts.n);
      layer.residual_norm_at.resize(block_tokens);
      if (config.layers[i].mixer == Mixer::delta) {
        layer.delta_heads.resize(config.delta.n_value_heads);
        continue;
      }
      layer.heads.resize(config.n_heads);
      for (HeadProbe& head : layer.heads) head.gate_at.resize(block_tokens);
      layer.value_norm_at.resize(block_tokens);
      layer.value_norm_ratio.resize(config.n_kv_heads);
    }
    first_values_.assign(config.n_layers(), std::vector<double>(config.n_kv_heads));
    other_values_ = first_values_;
  }

  ModelProbe found;

  /// What is run next.
  void begin(std::span<const Token> block) {
    counted_.clear();
    for (size_t i = 0; i < block.size(); ++i) {
      if (std::ranges::find(left_out_, block[i]) == left_out_.end()) counted_.push_back(i);
    }
    n_counted_ += counted_.size();
    n_contrasted_ += counted_.size() - (!counted_.empty() && counted_[0] == 0 ? 1 : 0);
  }

  bool wants(Site site) const override {
    return counts_as_tensor(site) || site == Site::delta_decay || site == Site::delta_strength ||
           site == Site::experts || AttentionObserver::wants(site);
  }

  bool see(Site site, size_t layer, std::span<float> values) override {
    if (counts_as_tensor(site)) add_tensor(site, layer, values);
    if (site == Site::block) add_residual(found.layers[layer], values);
    if (site == Site::delta_decay) add_decay(found.layers[layer], values);
    if (site == Site::delta_strength) add_strength(found.layers[layer], values);
    if (site == Site::experts) add_load(found.layers[layer], values);
    if (site == Site::output_norm) ++found.n_blocks;
    return AttentionObserver::see(site, layer, values);
  }

  void finish() {
    const auto n = static_cast<double>(found.n_blocks);
    found.tokens = found.n_blocks * found.block_tokens;
    for (size_t layer = 0; layer < found.layers.size(); ++layer) finish(layer, n);
    const auto n_layers = static_cast<double>(
        std::ranges::count(config_.layers, Mixer::attention, &LayerConfig::mixer));
    for (const LayerProbe& layer : found.layers) {
      found.sink_rate += layer.sink_rate / n_layers;
      for (const HeadProbe& head : layer.heads) {
        found.first_attention +=
            head.first_attention / n_layers / static_cast<double>(config_.n_heads);
      }
    }
    for (TensorProbe& tensor : found.tensors) {
      tensor.inf_norm /= n;
      tensor.kurtosis /= std::min(n, static_cast<double>(kurtosis_blocks));
      found.max_inf_norm = std::max(found.max_inf_norm, tensor.inf_norm);
      if (tensor.name.ends_with(name(Site::block))) {
        found.max_layer_inf_norm = std::max(found.max_layer_inf_norm, tensor.inf_norm);
      }
      found.avg_kurtosis += tensor.kurtosis / static_cast<double>(found.tensors.size());
    }
  }

 private:
  void add_tensor(Site site, size_t layer, std::span<const float> values) {
    std::string id(name(site));
    if (site != Site::output_norm) id = "blk." + std::to_string(layer) + "." + id;
    auto at = std::ranges::find(found.tensors, id, &TensorProbe::name);
    if (at == found.tensors.end()) at = found.tensors.insert(at, {.name = id});
    at->inf_norm += infinity_norm(values);
    if (found.n_blocks < kurtosis_blocks) at->kurtosis += kurtosis(values);
  }

  void add_residual(LayerProbe& layer, std::span<const float> values) const {
    for (size_t i = 0; i < found.block_tokens; ++i) {
      layer.residual_norm_at[i] +=
          norm(values.subspan(i * config_.hidden_size, config_.hidden_size));
    }
  }

  void add_decay(LayerProbe& layer, std::span<const float> values) const {
    for (size_t i = 0; i < values.size(); ++i) {
      DeltaHeadProbe& head = layer.delta_heads[i % layer.delta_heads.size()];
      head.decay += double{values[i]};
      head.half_life += std::log(double{values[i]});  // finish() makes it one
    }
  }

  void add_strength(LayerProbe& layer, std::span<const float> values) const {
    for (size_t i = 0; i < values.size(); ++i) {
      layer.delta_heads[i % layer.delta_heads.size()].strength += double{values[i]};
    }
  }

  void add_load(LayerProbe& layer, std::span<const float> routed) const {
    const size_t n_used = config_.experts.n_used;
    for (size_t i = 0; i < routed.size(); ++i) {
      if (i % (2 * n_used) < n_used) ++layer.expert_load[static_cast<size_t>(routed[i])];
    }
  }

  void attention(size_t index, const AttentionInputs& in) override {
    LayerProbe& layer = found.layers[index];
    for (size_t h = 0; h < config_.n_heads; ++h) {
      add_attention(layer.heads[h], in, h);
      if (config_.gate) add_gate(layer.heads[h], in, h);
    }
    for (size_t i = 0; i < found.block_tokens; ++i) {
      for (size_t head = 0; head < config_.n_kv_heads; ++head) {
        const double value = in.value_norm(config_, i, head);
        (i == 0 ? first_values_ : other_values_)[index][head] += value;
        layer.value_norm_at[i] += value / static_cast<double>(config_.n_kv_heads);
      }
    }
  }

  void add_attention(HeadProbe& head, const AttentionInputs& in, size_t h) const {
    for (const size_t query : counted_) {
      const double weight = in.weights(config_, query, h)[0];
      head.first_attention += weight;
      head.gated_first_attention += weight * in.gate_between(config_, query, 0, h);
      if (query == 0) continue;  // there is nothing beside itself
      const std::vector<double> scores = in.scores(config_, query, h);
      head.delta_logit += scores[0] - average(std::span(scores).subspan(1));
    }
    // Sinks are counted over all queries.
    const size_t n_sink = std::min(sink_tokens, found.block_tokens);
    double on_first = 0;
    for (size_t query = 0; query < n_sink; ++query) {
      on_first += in.weights(config_, query, h)[0] / static_cast<double>(n_sink);
    }
    if (on_first > sink_threshold) ++head.sink_rate;
    if (found.n_blocks == 0) keep_maps(head, in, h);
  }

  void keep_maps(HeadProbe& head, const AttentionInputs& in, size_t h) const {
    for (size_t query = 0; query < std::min(map_tokens, found.block_tokens); ++query) {
      const std::vector<double> weights = in.weights(config_, query, h);
      std::vector<float>& gated = head.gated_map.emplace_back();
      for (size_t key = 0; key <= query; ++key) {
        gated.push_back(static_cast<float>(weights[key] * in.gate_between(config_, query, key, h)));
      }
      head.map.emplace_back(weights.begin(), weights.end());
    }
  }

  void add_gate(HeadProbe& head, const AttentionInputs& in, size_t h) const {
    for (size_t i = 0; i < found.block_tokens; ++i) {
      const std::span<const float> gate = in.head_gate(config_, i, h);
      head.gate_at[i] += mean(gate);
      for (const float g : gate) {
        const double share = 1 / static_cast<double>(gate.size() * found.block_tokens);
        if (g < closed_gate) head.gate_closed += share;
        if (g > open_gate) head.gate_open += share;
      }
    }
  }

  void finish(size_t index, double n) {
    LayerProbe& layer = found.layers[index];
    for (HeadProbe& head : layer.heads) {
      head.first_attention /= static_cast<double>(n_counted_);
      head.gated_first_attention /= static_cast<double>(n_counted_);
      head.delta_logit /= static_cast<double>(n_contrasted_);
      for (double* sum : {&head.sink_rate, &head.gate_closed, &head.gate_open}) *sum /= n;
      for (double& gate : head.gate_at) gate /= n;
      head.gate_first = head.gate_at[0];
      head.gate_mean = average(head.gate_at);
      layer.sink_rate += head.sink_rate / static_cast<double>(layer.heads.size());
    }
    const double n_tokens = n * static_cast<double>(found.block_tokens);
    for (DeltaHeadProbe& head : layer.delta_heads) {
      for (double* sum : {&head.decay, &head.half_life, &head.strength}) *sum /= n_tokens;
      head.half_life = std::log(0.5) / head.half_life;
    }
    for (double& load : layer.expert_load) {
      load /= n_tokens * static_cast<double>(config_.experts.n_used);
    }
    const auto n_others = static_cast<double>(found.block_tokens - 1);
    for (size_t head = 0; head < layer.value_norm_ratio.size(); ++head) {
      layer.value_norm_first.push_back(first_values_[index][head] / n);
      layer.value_norm_ratio[head] =
          first_values_[index][head] / (other_values_[index][head] / n_others);
    }
    for (double& value : layer.value_norm_at) value /= n;
    for (double& value : layer.residual_norm_at) value /= n;
    layer.residual_norm_first = layer.residual_norm_at[0];
    layer.residual_norm_others = average(std::span(layer.residual_norm_at).subspan(1));
  }

  const Config& config_;
  std::span<const Token> left_out_;
  std::vector<size_t> counted_;                    // positions of this block whose queries count
  size_t n_counted_ = 0;                           // of all blocks
  size_t n_contrasted_ = 0;                        // without the first positions
  std::vector<std::vector<double>> first_values_;  // (n_layers, n_kv_heads) sums of norms
  std::vector<std::vector<double>> other_values_;
};

}  // namespace

ModelProbe probe_model(const Model& model, std::span<const std::vector<Token>> blocks,
                       std::span<const Token> left_out, size_t n_threads) {
  const size_t length = blocks.front().size();
  // A block is one batch, so that the observer has all of it.
  Session session(
      model,
      {.context = length, .n_threads = n_threads, .max_batch = length, .cache_type = DType::f32});
  Measurement measurement(model.config(), length, left_out);
  measurement.found.first_block = blocks.front();
  session.observe(&measurement);
  Progress progress("probing", blocks.size());
  std::vector<Row> rows;
  for (const std::vector<Token>& block : blocks) {
    rows.clear();
    for (const Token token : block) {  // all want logits: the last norm works on such rows alone
      rows.push_back({token, static_cast<int64_t>(rows.size()), 0, true});
    }
    measurement.begin(block);
    session.truncate(0);
    session.decode(rows);
    progress.update(measurement.found.n_blocks, "");
    if (interrupted()) break;
  }
  measurement.finish();
  return std::move(measurement.found);
}

double average(std::span<const double> x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}

}  // namespace vga
