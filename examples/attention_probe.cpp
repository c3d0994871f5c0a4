#include "attention_probe.h"

#include <algorithm>
#include <cmath>

namespace vga {
namespace {

using Gate = AttentionGate;

constexpr size_t skipped_queries = 32;

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

/// The weight of a query on the first of the keys up to its own: softmax(q k^T / sqrt(head_dim)).
double weight_on_first(const AttentionInputs& in, const Config& c, size_t query, size_t head) {
  const float* q = in.q.data() + query * c.q_size() + head * c.head_dim;
  const float* k = in.k.data() + head / c.heads_per_kv_head() * c.head_dim;
  const double scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  double first = 0;
  double highest = 0;
  double total = 0;  // relative to e^highest
  for (size_t position = 0; position <= query; ++position, k += c.kv_size()) {
    float score = 0;
    for (size_t i = 0; i < c.head_dim; ++i) score += q[i] * k[i];
    const double s = score * scale;
    if (position == 0) first = highest = s;
    if (s > highest) {
      total *= std::exp(highest - s);
      highest = s;
    }
    total += std::exp(s - highest);
  }
  return std::exp(first - highest) / total;
}

/// The gate between a query's head and the first token, the mean over elements if each has its own:
/// the query's own gate on outputs, the first token's on values.
double gate_on_first(const AttentionInputs& in, const Config& c, size_t query, size_t head) {
  if (!c.gate) return 1;
  const bool on_output = c.gate.placement == Gate::Placement::output;
  const size_t width = c.gate.granularity == Gate::Granularity::head ? 1 : c.head_dim;
  const size_t row = on_output ? query : 0;
  const size_t gate = on_output ? head : head / c.heads_per_kv_head();
  return mean(in.gate.subspan(row * c.n_gates() + gate * width, width));
}

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
        const double weight = weight_on_first(in, c, query, head);
        attention += weight;
        gated += weight * gate_on_first(in, c, query, head);
        ++n_weights;
      }
    }
    for (size_t i = 0; i < n_rows * c.n_kv_heads; ++i) {
      const double value = norm(in.v.subspan(i * c.head_dim, c.head_dim));
      const bool first = i < c.n_kv_heads;
      (first ? first_norm : other_norm) += value;
      ++(first ? n_first : n_other);
    }
  }
};

}  // namespace

std::vector<FirstTokenUse> probe_first_token(const Model& model,
                                             std::span<const std::vector<Token>> pieces,
                                             size_t n_threads) {
  const Config& c = model.config();
  std::vector<Sums> sums(c.n_layers);
  const size_t longest = std::ranges::max(pieces, {}, &std::vector<Token>::size).size();
  // A piece is one batch, so that the observer has all of its keys.
  Session session(
      model,
      {.context = longest, .n_threads = n_threads, .max_batch = longest, .cache_type = DType::f32});
  session.observe([&](const AttentionInputs& in) { sums[in.layer].add(in, c); });
  for (const std::vector<Token>& piece : pieces) {
    session.truncate(0);
    session.prefill(piece);
  }
  std::vector<FirstTokenUse> use;
  for (const Sums& s : sums) {
    use.push_back({.first_attention = s.attention / s.n_weights,
                   .gated_first_attention = s.gated / s.n_weights,
                   .value_norm_ratio = s.first_norm / s.n_first / (s.other_norm / s.n_other)});
  }
  return use;
}

}  // namespace vga
