#include "naive_model.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <stdexcept>

namespace vga::test {
namespace {

using Gate = AttentionGate;

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

double activation(Activation kind, double x) {
  switch (kind) {
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::gelu_tanh:
      return 0.5 * x *
             (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * std::pow(x, 3))));
    case Activation::gelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::sigmoid:
      return sigmoid(x);
  }
  throw std::runtime_error("no such activation");
}

double capped(double x, double cap) {
  return cap > 0 ? cap * std::tanh(x / cap) : x;
}

std::string block_name(size_t layer) {
  return "blk." + std::to_string(layer) + ".";
}

}  // namespace

NaiveModel::NaiveModel(const GgufImage& image, const Config& config, size_t context)
    : image_(image),
      config_(config),
      context_(context),
      keys_(config.n_layers()),
      values_(config.n_layers()),
      gates_(config.n_layers()),
      weights_(config.n_layers()),
      inputs_(config.n_layers()),
      states_(config.n_layers()) {
  for (const RopeTable& table : config.rope_tables) frequencies_.push_back(frequencies(table));
  turns_.resize(frequencies_.size());
}

const float* NaiveModel::tensor(const std::string& name) const {
  for (const auto& found : image_.tensors) {
    if (found.name == name) return reinterpret_cast<const float*>(found.data.data());
  }
  throw std::runtime_error("no tensor " + name);
}

/// `name` is without ".weight". Rows of a fused tensor begin at first_row.
NaiveModel::Vector NaiveModel::multiply(const std::string& name, const Vector& x, size_t n_out,
                                        bool has_bias, size_t first_row) const {
  const float* w = tensor(name + ".weight") + first_row * x.size();
  Vector out(n_out);
  for (size_t r = 0; r < n_out; ++r) {
    if (has_bias) out[r] = tensor(name + ".bias")[first_row + r];
    for (size_t i = 0; i < x.size(); ++i) out[r] += double{w[r * x.size() + i]} * x[i];
  }
  return out;
}

NaiveModel::Vector NaiveModel::normalise(const std::string& name, NormKind kind, const Vector& x,
                                         size_t group) const {
  const float* w = tensor(name + ".weight");
  Vector out(x.size());
  for (size_t first = 0; first < x.size(); first += group) {
    const std::span part = std::span(x).subspan(first, group);
    const auto n = static_cast<double>(group);
    const double mean =
        kind == NormKind::layer ? std::accumulate(part.begin(), part.end(), 0.0) / n : 0;
    double squares = 0;
    for (const double value : part) squares += std::pow(value - mean, 2);
    const double scale = 1 / std::sqrt(squares / n + double{config_.norm_eps});
    for (size_t i = 0; i < group; ++i) {
      out[first + i] = (part[i] - mean) * scale * w[i];
      if (kind == NormKind::layer) out[first + i] += tensor(name + ".bias")[i];
    }
  }
  return out;
}

NaiveModel::Vector NaiveModel::branch_input(const std::string& norm, const Vector& x) const {
  return config_.norm_before ? normalise(norm, config_.norm, x, x.size()) : x;
}

void NaiveModel::add_branch(const std::string& norm, Vector y, Vector& x) const {
  if (config_.norm_after) y = normalise(norm, config_.norm, y, y.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] += double{config_.residual_scale} * y[i];
}

NaiveModel::Vector NaiveModel::frequencies(const RopeTable& table) const {
  const Config& c = config_;
  const auto dim = static_cast<double>(c.rope_dim);
  const float* divisors = nullptr;
  if (c.rope_factors == RopeFactors::fixed) divisors = tensor("rope_freqs.weight");
  if (c.rope_factors == RopeFactors::by_context) {
    divisors = tensor(context_ > c.original_context ? "rope_factors_long.weight"
                                                    : "rope_factors_short.weight");
  }
  Vector out;
  for (size_t i = 0; i < c.rope_dim / 2; ++i) {
    double frequency = std::pow(table.theta, -2.0 * static_cast<double>(i) / dim);
    if (divisors != nullptr) frequency /= divisors[i];
    if (table.scaling == RopeTable::Scaling::linear) frequency /= table.factor;
    if (table.scaling == RopeTable::Scaling::yarn) {
      // The pair that turns so many times within the original context.
      const auto pair_of = [&](double turns) {
        const double wavelength = static_cast<double>(c.original_context) / turns;
        return dim / 2 * std::log(wavelength / (2 * std::numbers::pi)) / std::log(table.theta);
      };
      const double low = std::max(0.0, std::floor(pair_of(table.beta_fast)));
      const double high = std::min(dim - 1, std::ceil(pair_of(table.beta_slow)));
      const double share =
          std::clamp((static_cast<double>(i) - low) / std::max(high - low, 1e-3), 0.0, 1.0);
      frequency = frequency * (1 - share) + frequency / table.factor * share;
    }
    out.push_back(frequency);
  }
  return out;
}

NaiveModel::Vector NaiveModel::rotated(const double* head, size_t layer, size_t position) {
  Vector out(head, head + config_.head_dim);
  const std::optional<size_t> table = config_.layers[layer].rope;
  if (!table) return out;
  const double magnitude = double{config_.rope_tables[*table].magnitude};
  const size_t n_pairs = config_.rope_dim / 2;
  auto& turns = turns_[*table];
  for (size_t p = turns.size(); p <= position; ++p) {
    auto& pairs = turns.emplace_back();
    for (size_t i = 0; i < n_pairs; ++i) {
      const double angle = static_cast<double>(p) * frequencies_[*table][i];
      pairs.push_back({magnitude * std::cos(angle), magnitude * std::sin(angle)});
    }
  }
  for (size_t i = 0; i < n_pairs; ++i) {
    const auto [cosine, sine] = turns[position][i];
    const size_t a = config_.half_split ? i : 2 * i;
    const size_t b = config_.half_split ? i + n_pairs : 2 * i + 1;
    out[a] = head[a] * cosine - head[b] * sine;
    out[b] = head[b] * cosine + head[a] * sine;
  }
  return out;
}

NaiveModel::Vector NaiveModel::attention(size_t layer, const Vector& x,
                                         std::span<const size_t> seen) {
  const Config& c = config_;
  const std::string block = block_name(layer);
  const Vector h = branch_input(block + "attn_norm", x);
  const auto project = [&](const char* name, size_t n_out, size_t first_fused_row) {
    return c.fused_qkv ? multiply(block + "attn_qkv", h, n_out, c.biases.qkv, first_fused_row)
                       : multiply(block + name, h, n_out, c.biases.qkv);
  };
  Vector q = c.fused_q_gate ? Vector(c.q_size()) : project("attn_q", c.q_size(), 0);
  Vector k = project("attn_k", c.kv_size(), c.q_size());
  const Vector v = project("attn_v", c.kv_size(), c.q_size() + c.kv_size());
  Vector gate;
  if (c.fused_q_gate) {
    const Vector both = multiply(block + "attn_q", h, 2 * c.q_size(), false);
    for (size_t i = 0; i < both.size(); ++i) {
      const size_t head = i / (2 * c.head_dim);
      const size_t element = i % (2 * c.head_dim);
      if (element < c.head_dim) {
        q[head * c.head_dim + element] = both[i];
      } else {
        gate.push_back(sigmoid(both[i]));
      }
    }
  } else if (c.gate) {
    gate = multiply(block + "attn_gate", c.gate.source == Gate::Source::value ? v : h, c.n_gates(),
                    c.gate.bias);
    for (double& g : gate) g = sigmoid(g);
  }
  if (c.qk_norm != QkNorm::none) {
    const bool all = c.qk_norm == QkNorm::all;
    q = normalise(block + "attn_q_norm", NormKind::rms, q, all ? c.q_size() : c.head_dim);
    k = normalise(block + "attn_k_norm", NormKind::rms, k, all ? c.kv_size() : c.head_dim);
  }
  const auto gate_of = [&](const Vector& g, size_t element) {
    return g[c.gate.granularity == Gate::Granularity::head ? element / c.head_dim : element];
  };
  keys_[layer].push_back(k);
  values_[layer].push_back(v);
  gates_[layer].push_back(gate);
  const bool on_values = c.gate && c.gate.placement == Gate::Placement::value;

  std::vector<size_t> own_window;
  if (const size_t window = c.layers[layer].window; window > 0 && seen.size() > window) {
    own_window.resize(window);
    std::iota(own_window.begin(), own_window.end(), seen.back() + 1 - window);
    seen = own_window;
  }
  Vector mixed(c.q_size());
  weights_[layer].assign(c.n_heads, {});
  for (size_t head = 0; head < c.n_heads; ++head) {
    const size_t kv_head = head / c.heads_per_kv_head();
    const Vector query = rotated(q.data() + head * c.head_dim, layer, seen.size() - 1);
    Vector& weights = weights_[layer][head];
    for (size_t place = 0; place < seen.size(); ++place) {
      const Vector key =
          rotated(keys_[layer][seen[place]].data() + kv_head * c.head_dim, layer, place);
      const double product = std::inner_product(query.begin(), query.end(), key.begin(), 0.0);
      weights.push_back(capped(product * double{c.score_scale}, double{c.score_cap}));
    }
    const double highest = *std::ranges::max_element(weights);
    double total = 0;
    for (double& weight : weights) total += weight = std::exp(weight - highest);
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
  return multiply(block + "attn_output", mixed, c.hidden_size, c.biases.output);
}

NaiveModel::Vector NaiveModel::delta_net(size_t layer, const Vector& x) {
  const Config& c = config_;
  const DeltaNet& d = c.delta;
  const std::string block = block_name(layer);
  const Vector h = branch_input(block + "attn_norm", x);
  auto& inputs = inputs_[layer];
  inputs.push_back(multiply(block + "attn_qkv", h, d.conv_cols(), false));
  const float* taps = tensor(block + "ssm_conv1d.weight");
  Vector qkv(d.conv_cols());
  for (size_t i = 0; i < qkv.size(); ++i) {
    double sum = 0;
    for (size_t back = 0; back < std::min(d.conv_size, inputs.size()); ++back) {
      sum += inputs[inputs.size() - 1 - back][i] * taps[(i + 1) * d.conv_size - 1 - back];
    }
    qkv[i] = activation(Activation::silu, sum);
  }
  const auto unit = [&](size_t first) {
    Vector head(qkv.begin() + static_cast<std::ptrdiff_t>(first),
                qkv.begin() + static_cast<std::ptrdiff_t>(first + d.head_dim));
    const double square = std::inner_product(head.begin(), head.end(), head.begin(), 0.0);
    for (double& value : head) value /= std::sqrt(square + 1e-6);
    return head;
  };
  const size_t ratio = d.n_value_heads / d.n_key_heads;
  Vector decay;
  Vector strength;
  if (d.fused_rates) {
    const Vector both = multiply(block + "ssm_ba", h, 2 * d.n_value_heads, false);
    for (size_t i = 0; i < both.size(); ++i) {
      (i % (2 * ratio) < ratio ? strength : decay).push_back(both[i]);
    }
  } else {
    decay = multiply(block + "ssm_alpha", h, d.n_value_heads, false);
    strength = multiply(block + "ssm_beta", h, d.n_value_heads, false);
  }
  auto& states = states_[layer];
  states.resize(d.n_value_heads, Vector(d.head_dim * d.head_dim));
  Vector mixed(d.value_size());
  for (size_t head = 0; head < d.n_value_heads; ++head) {
    const size_t key_head = d.grouped ? head / ratio : head % d.n_key_heads;
    const Vector query = unit(key_head * d.head_dim);
    const Vector key = unit(d.key_size() + key_head * d.head_dim);
    const double* value = &qkv[2 * d.key_size() + head * d.head_dim];
    const double rate = decay[head] + tensor(block + "ssm_dt.bias")[head];
    const double kept = std::exp(tensor(block + "ssm_a")[head] * std::log1p(std::exp(rate)));
    Vector& state = states[head];
    for (double& entry : state) entry *= kept;
    for (size_t j = 0; j < d.head_dim; ++j) {
      double found = 0;
      for (size_t i = 0; i < d.head_dim; ++i) found += state[i * d.head_dim + j] * key[i];
      const double change = sigmoid(strength[head]) * (value[j] - found);
      for (size_t i = 0; i < d.head_dim; ++i) {
        state[i * d.head_dim + j] += key[i] * change;
        mixed[head * d.head_dim + j] +=
            state[i * d.head_dim + j] * query[i] / std::sqrt(static_cast<double>(d.head_dim));
      }
    }
  }
  mixed = normalise(block + "ssm_norm", NormKind::rms, mixed, d.head_dim);
  const Vector gate = multiply(block + "attn_gate", h, d.value_size(), false);
  for (size_t i = 0; i < mixed.size(); ++i) mixed[i] *= activation(Activation::silu, gate[i]);
  return multiply(block + "ssm_out", mixed, c.hidden_size, false);
}

/// `names` end the names of its matrices: "_exps".
NaiveModel::Vector NaiveModel::network(const std::string& block, const std::string& names,
                                       const Vector& h, size_t size, size_t expert) const {
  Vector up = multiply(block + "ffn_up" + names, h, size, false, expert * size);
  const Vector gate = multiply(block + "ffn_gate" + names, h, size, false, expert * size);
  for (size_t i = 0; i < size; ++i) up[i] *= activation(config_.activation, gate[i]);
  return multiply(block + "ffn_down" + names, up, h.size(), false, expert * h.size());
}

NaiveModel::Vector NaiveModel::experts(size_t layer, const Vector& h) const {
  const Experts& e = config_.experts;
  const std::string block = block_name(layer);
  Vector p = multiply(block + "ffn_gate_inp", h, e.n, false);
  double total = 0;
  for (double& x : p) total += x = e.router == Experts::Router::softmax ? std::exp(x) : sigmoid(x);
  if (e.router == Experts::Router::softmax) {
    for (double& x : p) x /= total;
  }
  std::vector<size_t> order(e.n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, std::ranges::greater(), [&](size_t i) {
    return p[i] + (e.choice_bias ? double{tensor(block + "exp_probs_b.bias")[i]} : 0);
  });
  order.resize(e.n_used);
  double used = 0;
  for (const size_t i : order) used += p[i];
  Vector out(h.size());
  const auto add = [&](const Vector& y, double weight) {
    for (size_t i = 0; i < out.size(); ++i) out[i] += weight * y[i];
  };
  for (const size_t i : order) {
    add(network(block, "_exps", h, e.ffn_size, i),
        p[i] / (e.normalised ? used : 1) * double{e.scale});
  }
  if (e.shared_ffn_size > 0) {
    const double weight =
        e.shared_gate ? sigmoid(multiply(block + "ffn_gate_inp_shexp", h, 1, false)[0]) : 1;
    add(network(block, "_shexp", h, e.shared_ffn_size), weight);
  }
  return out;
}

NaiveModel::Vector NaiveModel::feed_forward(size_t layer, const Vector& x) const {
  const Config& c = config_;
  const std::string block = block_name(layer);
  const Vector h =
      branch_input(block + (c.ffn_norm_is_post_attention ? "post_attention_norm" : "ffn_norm"), x);
  if (c.layers[layer].experts) return experts(layer, h);
  const bool bias = c.biases.ffn;
  Vector up = multiply(block + "ffn_up", h, c.ffn_size, bias, c.fused_gate_up ? c.ffn_size : 0);
  if (!c.ffn_gated) {
    for (double& y : up) y = activation(c.activation, y);
  } else {
    const Vector gate =
        multiply(block + (c.fused_gate_up ? "ffn_up" : "ffn_gate"), h, c.ffn_size, bias);
    for (size_t i = 0; i < up.size(); ++i) up[i] *= activation(c.activation, gate[i]);
  }
  return multiply(block + "ffn_down", up, c.hidden_size, bias);
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

std::vector<double> NaiveModel::add(Token token) {
  std::vector<size_t> all(n_tokens_ + 1);
  std::iota(all.begin(), all.end(), size_t{0});
  return add(token, all);
}

std::vector<double> NaiveModel::add(Token token, std::span<const size_t> seen) {
  const Config& c = config_;
  const float* row = tensor("token_embd.weight") + static_cast<size_t>(token) * c.hidden_size;
  Vector x(row, row + c.hidden_size);
  for (double& value : x) value *= double{c.embedding_scale};
  if (c.learned_positions) {
    const float* position = tensor("position_embd.weight") + n_tokens_ * c.hidden_size;
    for (size_t i = 0; i < x.size(); ++i) x[i] += position[i];
  }
  for (size_t layer = 0; layer < c.n_layers(); ++layer) {
    const Vector before = x;
    const bool is_delta = c.layers[layer].mixer == Mixer::delta;
    add_branch(block_name(layer) + "post_attention_norm",
               is_delta ? delta_net(layer, x) : attention(layer, x, seen), x);
    const Vector& in = c.parallel_residual ? before : x;
    add_branch(block_name(layer) + "post_ffw_norm", feed_forward(layer, in), x);
  }
  ++n_tokens_;
  Vector logits = multiply(c.tied_embeddings ? "token_embd" : "output",
                           normalise("output_norm", c.norm, x, x.size()), c.vocab_size, false);
  for (double& y : logits) y = capped(y * double{c.logit_scale}, double{c.logit_cap});
  return logits;
}

}  // namespace vga::test
