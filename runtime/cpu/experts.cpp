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
void ExpertOps::prepare(const Rows& x, size_t inputs, DType type) {
  Prepared& form = prepared(type);
  if (form.valid) return;
  x_.resize(std::max(x_.size(), pairs_.size() * inputs));
  form.x.resize(std::max(form.x.size(), prepared_size(pairs_.size(), inputs)));
  threads_.run(groups_.size(), grain_for(inputs), [&](size_t begin, size_t end, size_t) {
    for (size_t g = begin; g < end; ++g) {
      const auto& [expert, first, n] = groups_[g];
      for (size_t i = first; i < first + n; ++i) {
        const auto& [row, index] = pairs_[i];
        const size_t part = x.stride == inputs ? 0 : index * inputs;
        std::copy_n(x.data + row * x.stride + part, inputs, &x_[i * inputs]);
      }
      kernels_.prepare(type, &x_[first * inputs], 0, n, inputs,
                       &form.x[prepared_size(first, inputs)]);
    }
  });
  form.valid = true;
}

void ExpertOps::project(const Rows& x, const Rows& routed, size_t inputs,
                        std::span<const Product> products) {
  const size_t n_used = routed.stride / 2;
  group_pairs(routed);
  for (Prepared& form : prepared_) form.valid = false;
  std::vector<size_t> begins;  // (products) of their results
  size_t n_floats = 0;
  for (const Product& p : products) {
    prepare(x, inputs, p.weight.type);
    begins.push_back(n_floats);
    n_floats += pairs_.size() * p.outputs;
  }
  products_.resize(std::max(products_.size(), n_floats));
  const size_t rows_a_group = (pairs_.size() + groups_.size() - 1) / groups_.size();
  share_outputs(
      threads_, products.size() * groups_.size(), inputs * rows_a_group,
      [&](size_t i) { return products[i / groups_.size()].outputs; },
      [&](size_t i, size_t first, size_t last) {
        const Product& p = products[i / groups_.size()];
        const auto& [expert, first_pair, n] = groups_[i % groups_.size()];
        float* out = &products_[begins[i / groups_.size()] + first_pair * p.outputs + first];
        kernels_.project(p.weight, expert * p.outputs + first, expert * p.outputs + last,
                         &prepared(p.weight.type).x[prepared_size(first_pair, inputs)], n, out,
                         p.outputs, false);
        for (size_t t = 0; t < n; ++t) {
          const auto& [row, index] = pairs_[first_pair + t];
          std::copy_n(out + t * p.outputs, last - first,
                      p.out + (row * n_used + index) * p.outputs + first);
        }
      });
}

}  // namespace vga::cpu
