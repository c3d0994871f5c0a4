#include "cpu/experts.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "cpu/share_outputs.h"

namespace vga::cpu {

void ExpertOps::route(const float* logits, const float* bias, const Experts& experts, float* out) {
  std::vector<double> p(logits, logits + experts.n);  // probabilities
  if (experts.router == Experts::Router::softmax) {
    const double highest = *std::ranges::max_element(p);
    double total = 0;
    for (double& x : p) total += x = std::exp(x - highest);
    for (double& x : p) x /= total;
  } else {
    for (double& x : p) x = 1 / (1 + std::exp(-x));
  }
  const auto rank = [&](size_t i) { return p[i] + (bias == nullptr ? 0 : double{bias[i]}); };
  std::vector<bool> is_chosen(experts.n);
  for (size_t used = 0; used < experts.n_used; ++used) {
    std::optional<size_t> best;  // the first of equals, and of those that are no numbers
    for (size_t i = 0; i < experts.n; ++i) {
      if (!is_chosen[i] && (!best || rank(i) > rank(*best))) best = i;
    }
    is_chosen[*best] = true;
  }
  double total = 0;
  for (size_t i = 0; i < experts.n; ++i) {
    if (is_chosen[i]) total += p[i];
  }
  const double factor = double{experts.scale} / (experts.normalised ? total : 1);
  size_t n = 0;
  for (size_t i = 0; i < experts.n; ++i) {
    if (!is_chosen[i]) continue;
    out[n] = static_cast<float>(i);
    out[experts.n_used + n] = static_cast<float>(p[i] * factor);
    ++n;
  }
}

void ExpertOps::group_pairs(const Rows& routed) {
  const size_t n_used = routed.stride / 2;
  const auto expert = [&](const Pair& pair) {
    return static_cast<size_t>(routed.data[pair.row * routed.stride + pair.index]);
  };
  pairs_.clear();
  for (size_t row = 0; row < routed.n; ++row) {
    for (size_t i = 0; i < n_used; ++i) pairs_.push_back({row, i});
  }
  std::ranges::stable_sort(pairs_, {}, expert);
  groups_.clear();
  for (size_t i = 0; i < pairs_.size(); ++i) {
    const size_t e = expert(pairs_[i]);
    if (groups_.empty() || groups_.back().expert != e) groups_.push_back({e, i, 0});
    ++groups_.back().n;
  }
}

/// Brings x into the order of the pairs and the form in which weights of `type` take it.
void ExpertOps::gather(const Rows& x, size_t inputs, DType type) {
  x_.resize(std::max(x_.size(), pairs_.size() * inputs));
  prepared_.resize(std::max(prepared_.size(), prepared_size(pairs_.size(), inputs)));
  threads_.run(groups_.size(), grain_for(inputs), [&](size_t begin, size_t end, size_t) {
    for (size_t g = begin; g < end; ++g) {
      const auto& [expert, first, n] = groups_[g];
      for (size_t i = first; i < first + n; ++i) {
        const auto& [row, index] = pairs_[i];
        const size_t part = x.stride == inputs ? 0 : index * inputs;
        std::copy_n(x.data + row * x.stride + part, inputs, &x_[i * inputs]);
      }
      kernels_.prepare(type, &x_[first * inputs], 0, n, inputs,
                       &prepared_[prepared_size(first, inputs)]);
    }
  });
}

void ExpertOps::project(const Rows& x, const Rows& routed, size_t inputs,
                        std::span<const Product> products) {
  const size_t n_used = routed.stride / 2;
  group_pairs(routed);
  size_t n_floats = 0;
  for (const Product& product : products) n_floats += pairs_.size() * product.outputs;
  products_.resize(std::max(products_.size(), n_floats));
  float* sorted = products_.data();  // (pairs, outputs) of each product
  std::optional<bool> prepared_plain;
  for (const Product& p : products) {
    if (prepared_plain != is_plain(p.weight.type)) gather(x, inputs, p.weight.type);
    prepared_plain = is_plain(p.weight.type);
    const size_t rows = (routed.n * n_used + groups_.size() - 1) / groups_.size();
    share_outputs(
        threads_, groups_.size(), inputs * rows, [&](size_t) { return p.outputs; },
        [&](size_t g, size_t first, size_t last) {
          const auto& [expert, first_pair, n] = groups_[g];
          float* out = sorted + first_pair * p.outputs + first;
          kernels_.project(p.weight, expert * p.outputs + first, expert * p.outputs + last,
                           &prepared_[prepared_size(first_pair, inputs)], n, out, p.outputs, false);
          for (size_t i = 0; i < n; ++i) {
            const auto& [row, index] = pairs_[first_pair + i];
            std::copy_n(out + i * p.outputs, last - first,
                        p.out + (row * n_used + index) * p.outputs + first);
          }
        });
    sorted += pairs_.size() * p.outputs;
  }
}

}  // namespace vga::cpu
