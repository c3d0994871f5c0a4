#include "common/attention_probe.h"

#include <algorithm>
#include <cmath>

#include "common/terminal.h"

namespace vga {
namespace {

using Gate = AttentionGate;

constexpr size_t skipped_queries = 32;

/// Sums of one layer over all pieces.
struct Sums {
  double attention = 0;
  double gated = 0;
  double n_weights = 0;
  double first_norm = 0;
  double n_first = 0;
  double other_norm = 0;
  double n_other = 0;

  void add(const AttentionInputs& in, const Config& c) {
    const size_t n_rows = in.q.size() / c.q_size();
    for (size_t query = std::min(skipped_queries, n_rows / 2); query < n_rows; ++query) {
      for (size_t head = 0; head < c.n_heads; ++head) {
        const double weight = in.weights(c, query, head)[0];
        attention += weight;
        gated += weight * in.gate_between(c, query, 0, head);
        ++n_weights;
      }
    }
    for (size_t row = 0; row < n_rows; ++row) {
      for (size_t head = 0; head < c.n_kv_heads; ++head) {
        (row == 0 ? first_norm : other_norm) += in.value_norm(c, row, head);
        ++(row == 0 ? n_first : n_other);
      }
    }
  }
};

class FirstTokenObserver : public AttentionObserver {
 public:
  explicit FirstTokenObserver(const Config& config) : sums(config.n_layers()), config_(config) {}

  std::vector<Sums> sums;  // (n_layers)

 private:
  void attention(size_t layer, const AttentionInputs& in) override { sums[layer].add(in, config_); }

  const Config& config_;
};

}  // namespace

double norm(std::span<const float> x) {
  double squares = 0;
  for (const float value : x) squares += double{value} * value;
  return std::sqrt(squares);
}

double mean(std::span<const float> x) {
  double sum = 0;
  for (const float value : x) sum += value;
  return sum / static_cast<double>(x.size());
}

std::vector<double> AttentionInputs::scores(const Config& c, size_t query, size_t head) const {
  const float* from = q.data() + query * c.q_size() + head * c.head_dim;
  const float* to = k.data() + head / c.heads_per_kv_head() * c.head_dim;
  const size_t window = c.layers[layer].window;
  const size_t first = window > 0 && query >= window ? query + 1 - window : 0;
  std::vector<double> all(query + 1, -INFINITY);
  to += first * c.kv_size();
  for (double& score : std::span(all).subspan(first)) {
    float sum = 0;
    for (size_t i = 0; i < c.head_dim; ++i) sum += from[i] * to[i];
    score = sum * double{c.score_scale};
    if (c.score_cap > 0) score = double{c.score_cap} * std::tanh(score / double{c.score_cap});
    to += c.kv_size();
  }
  return all;
}

std::vector<double> AttentionInputs::weights(const Config& c, size_t query, size_t head) const {
  std::vector<double> all = scores(c, query, head);
  const double highest = *std::ranges::max_element(all);
  double total = 0;
  for (double& weight : all) total += weight = std::exp(weight - highest);
  for (double& weight : all) weight /= total;
  return all;
}

std::span<const float> AttentionInputs::head_gate(const Config& c, size_t row, size_t head) const {
  const size_t width = c.gate.granularity == Gate::Granularity::head ? 1 : c.head_dim;
  const bool on_output = c.gate.placement == Gate::Placement::output;
  const size_t index = on_output ? head : head / c.heads_per_kv_head();
  return std::span(gate).subspan(row * c.n_gates() + index * width, width);
}

double AttentionInputs::gate_between(const Config& c, size_t query, size_t key, size_t head) const {
  if (!c.gate) return 1;
  return mean(head_gate(c, c.gate.placement == Gate::Placement::output ? query : key, head));
}

double AttentionInputs::value_norm(const Config& c, size_t row, size_t kv_head) const {
  return norm(std::span(v).subspan(row * c.kv_size() + kv_head * c.head_dim, c.head_dim));
}

bool AttentionObserver::wants(Site site) const {
  return site == Site::attn_v || site == Site::attn_gate || site == Site::q_rotated ||
         site == Site::k_rotated;
}

bool AttentionObserver::see(Site site, size_t layer, std::span<float> values) {
  if (site == Site::attn_v) in_.v.assign(values.begin(), values.end());
  if (site == Site::attn_gate) in_.gate.assign(values.begin(), values.end());
  if (site == Site::q_rotated) in_.q.assign(values.begin(), values.end());
  if (site == Site::k_rotated) {  // the last one
    in_.k.assign(values.begin(), values.end());
    in_.layer = layer;
    attention(layer, in_);
  }
  return false;
}

std::vector<FirstTokenUse> probe_first_token(const Model& model,
                                             std::span<const std::vector<Token>> pieces,
                                             size_t n_threads) {
  const size_t longest = std::ranges::max(pieces, {}, &std::vector<Token>::size).size();
  // A piece is one batch, so that the observer has all of its keys.
  Session session(
      model,
      {.context = longest, .n_threads = n_threads, .max_batch = longest, .cache_type = DType::f32});
  FirstTokenObserver observer(model.config());
  session.observe(&observer);
  for (const std::vector<Token>& piece : pieces) {
    session.truncate(0);
    session.prefill(piece);
    if (interrupted()) break;  // a first piece there is
  }
  std::vector<FirstTokenUse> use;
  for (size_t layer = 0; layer < observer.sums.size(); ++layer) {
    if (model.config().layers[layer].mixer != Mixer::attention) continue;
    const Sums& s = observer.sums[layer];
    use.push_back({.layer = layer,
                   .first_attention = s.attention / s.n_weights,
                   .gated_first_attention = s.gated / s.n_weights,
                   .value_norm_ratio = s.first_norm / s.n_first / (s.other_norm / s.n_other)});
  }
  return use;
}

}  // namespace vga
