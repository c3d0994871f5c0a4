#include "naive_model.h"

#include <cmath>
#include <stdexcept>

namespace vga::test {
namespace {

using Gate = AttentionGate;

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

}  // namespace

NaiveModel::NaiveModel(const GgufImage& image, const Config& config)
    : image_(image),
      config_(config),
      keys_(config.n_layers),
      values_(config.n_layers),
      gates_(config.n_layers),
      weights_(config.n_layers) {}

const float* NaiveModel::tensor(const std::string& name) const {
  for (const auto& found : image_.tensors) {
    if (found.name == name) return reinterpret_cast<const float*>(found.data.data());
  }
  throw std::runtime_error("no tensor " + name);
}

NaiveModel::Vector NaiveModel::multiply(const std::string& name, const Vector& x,
                                        size_t n_out) const {
  const float* w = tensor(name);
  Vector out(n_out);
  for (size_t r = 0; r < n_out; ++r) {
    for (size_t i = 0; i < x.size(); ++i) out[r] += double{w[r * x.size() + i]} * x[i];
  }
  return out;
}

NaiveModel::Vector NaiveModel::normalise(const std::string& name, const Vector& x) const {
  const float* w = tensor(name);
  double squares = 0;
  for (const double value : x) squares += value * value;
  const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + config_.rms_eps);
  Vector out(x.size());
  for (size_t i = 0; i < x.size(); ++i) out[i] = x[i] * scale * w[i];
  return out;
}

NaiveModel::Vector NaiveModel::rotated(const double* head, size_t position) {
  const bool half_split = config_.architecture == Config::Architecture::vga;
  const size_t n_pairs = config_.rope_dim / 2;
  for (size_t p = angles_.size(); p <= position; ++p) {
    Vector& angles = angles_.emplace_back();
    for (size_t i = 0; i < n_pairs; ++i) {
      const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config_.rope_dim);
      angles.push_back(static_cast<double>(p) * std::pow(config_.rope_theta, exponent));
    }
  }
  Vector out(head, head + config_.head_dim);
  for (size_t i = 0; i < n_pairs; ++i) {
    const double cosine = std::cos(angles_[position][i]);
    const double sine = std::sin(angles_[position][i]);
    const size_t a = half_split ? i : 2 * i;
    const size_t b = half_split ? i + n_pairs : 2 * i + 1;
    out[a] = head[a] * cosine - head[b] * sine;
    out[b] = head[b] * cosine + head[a] * sine;
  }
  return out;
}

NaiveModel::Vector NaiveModel::attention(size_t layer, const Vector& x,
                                         std::span<const size_t> seen) {
  const Config& c = config_;
  const std::string block = "blk." + std::to_string(layer) + ".";
  const Vector h = normalise(block + "attn_norm.weight", x);
  const Vector q = multiply(block + "attn_q.weight", h, c.q_size());
  const Vector v = multiply(block + "attn_v.weight", h, c.kv_size());
  Vector gate;
  if (c.gate) {
    gate = multiply(block + "attn_gate.weight", c.gate.source == Gate::Source::value ? v : h,
                    c.n_gates());
    for (size_t i = 0; i < gate.size(); ++i) {
      gate[i] = sigmoid(gate[i] + (c.gate.bias ? tensor(block + "attn_gate.bias")[i] : 0));
    }
  }
  const auto gate_of = [&c](const Vector& g, size_t element) {
    return g[c.gate.granularity == Gate::Granularity::head ? element / c.head_dim : element];
  };
  keys_[layer].push_back(multiply(block + "attn_k.weight", h, c.kv_size()));
  values_[layer].push_back(v);
  gates_[layer].push_back(gate);
  const bool on_values = c.gate && c.gate.placement == Gate::Placement::value;

  Vector mixed(c.q_size());
  weights_[layer].assign(c.n_heads, {});
  for (size_t head = 0; head < c.n_heads; ++head) {
    const size_t kv_head = head / c.heads_per_kv_head();
    const Vector query = rotated(q.data() + head * c.head_dim, seen.size() - 1);
    Vector& weights = weights_[layer][head];
    double total = 0;
    for (size_t place = 0; place < seen.size(); ++place) {
      const Vector key = rotated(keys_[layer][seen[place]].data() + kv_head * c.head_dim, place);
      double score = 0;
      for (size_t i = 0; i < c.head_dim; ++i) score += query[i] * key[i];
      weights.push_back(std::exp(score / std::sqrt(static_cast<double>(c.head_dim))));
      total += weights.back();
    }
    for (size_t place = 0; place < seen.size(); ++place) {
      weights[place] /= total;
      for (size_t i = 0; i < c.head_dim; ++i) {
        const size_t element = kv_head * c.head_dim + i;
        const double g = on_values ? gate_of(gates_[layer][seen[place]], element) : 1;
        mixed[head * c.head_dim + i] += weights[place] * g * values_[layer][seen[place]][element];
      }
    }
  }
  if (c.gate && c.gate.placement == Gate::Placement::output) {
    for (size_t i = 0; i < mixed.size(); ++i) mixed[i] *= gate_of(gate, i);
  }
  return multiply(block + "attn_output.weight", mixed, c.hidden_size);
}

double NaiveModel::gate_on(size_t layer, size_t key, size_t query, size_t head) const {
  const Config& c = config_;
  if (!c.gate) return 1;
  const bool on_output = c.gate.placement == Gate::Placement::output;
  const Vector& gates = gates_[layer][on_output ? query : key];
  const size_t gate_head = on_output ? head : head / c.heads_per_kv_head();
  if (c.gate.granularity == Gate::Granularity::head) return gates[gate_head];
  double sum = 0;
  for (size_t i = 0; i < c.head_dim; ++i) sum += gates[gate_head * c.head_dim + i];
  return sum / static_cast<double>(c.head_dim);
}

double NaiveModel::value_norm_ratio(size_t layer) const {
  const auto& values = values_[layer];
  double first = 0;
  double others = 0;
  for (size_t position = 0; position < values.size(); ++position) {
    for (size_t head = 0; head < config_.n_kv_heads; ++head) {
      double squares = 0;
      for (size_t i = 0; i < config_.head_dim; ++i) {
        squares += std::pow(values[position][head * config_.head_dim + i], 2);
      }
      (position == 0 ? first : others) += std::sqrt(squares);
    }
  }
  return first / (others / static_cast<double>(values.size() - 1));
}

std::vector<double> NaiveModel::add(Token token, std::span<const size_t> seen) {
  const Config& c = config_;
  const float* row = tensor("token_embd.weight") + static_cast<size_t>(token) * c.hidden_size;
  Vector x(row, row + c.hidden_size);
  const auto add_to_x = [&](const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  };
  for (size_t layer = 0; layer < c.n_layers; ++layer) {
    add_to_x(attention(layer, x, seen));
    const std::string block = "blk." + std::to_string(layer) + ".";
    const Vector h = normalise(block + "ffn_norm.weight", x);
    Vector gate = multiply(block + "ffn_gate.weight", h, c.ffn_size);
    const Vector up = multiply(block + "ffn_up.weight", h, c.ffn_size);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] *= sigmoid(gate[i]) * up[i];
    add_to_x(multiply(block + "ffn_down.weight", gate, c.hidden_size));
  }
  return multiply(c.tied_embeddings ? "token_embd.weight" : "output.weight",
                  normalise("output_norm.weight", x), c.vocab_size);
}

}  // namespace vga::test
