#include "inspect/check_tensors.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <string>
#include <vector>

#include "base/text.h"
#include "common/format.h"
#include "common/terminal.h"
#include "gguf/decode.h"
#include "model/weights.h"

namespace vga {
namespace {

constexpr double largest_f16 = 65504;

size_t count_non_finite(const GgufTensor& tensor) {
  const auto type = dtype_from_gguf(tensor.type);
  if (!type || tensor.data.empty()) return 0;
  const size_t stride = row_bytes(*type, tensor.dims[0]);
  std::vector<float> row(tensor.dims[0]);
  size_t bad = 0;
  for (size_t offset = 0; offset < tensor.data.size(); offset += stride) {
    decode_row(*type, tensor.data.data() + offset, row);
    bad +=
        static_cast<size_t>(std::ranges::count_if(row, [](float x) { return !std::isfinite(x); }));
  }
  return bad;
}

/// A row of a tensor; zeros if there is no tensor.
std::vector<float> row_of(const Tensor& tensor, size_t row, size_t n) {
  std::vector<float> values(n);
  if (tensor) decode_row(tensor.type, tensor.row(row), values);
  return values;
}

/// The largest magnitude that a linear layer makes of a vector behind a norm. Normalised, the
/// vector's length is sqrt(n) at most; the norm's weight w scales it and its bias b is added, so
/// that a row r makes no more than |r w| sqrt(n) + |r b|.
double largest_output(const Linear& linear, const Norm& norm) {
  const size_t n = linear.weight.cols;
  const std::vector<float> w = row_of(norm.weight, 0, n);
  const std::vector<float> b = row_of(norm.bias, 0, n);
  const std::vector<float> bias = row_of(linear.bias, 0, linear.weight.rows);
  double largest = 0;
  for (size_t i = 0; i < linear.weight.rows; ++i) {
    const std::vector<float> row = row_of(linear.weight, i, n);
    double squares = 0;
    double shift = bias[i];
    for (size_t j = 0; j < n; ++j) {
      squares += std::pow(double{row[j]} * w[j], 2);
      shift += double{row[j]} * b[j];
    }
    largest = std::max(largest, std::sqrt(squares * static_cast<double>(n)) + std::abs(shift));
  }
  return largest;
}

/// The largest key of a layer. RoPE turns pairs: what both had may end up in one.
double largest_key(const BlockWeights& block, QkNorm kind) {
  double largest = 0;
  if (kind == QkNorm::none) {
    largest = largest_output(block.attn_k, block.attn_norm);
  } else {
    const Tensor& weight = block.attn_k_norm.weight;
    for (const float w : row_of(weight, 0, weight.cols)) {
      largest = std::max(largest, std::abs(double{w}));
    }
    largest *= std::sqrt(static_cast<double>(weight.cols));
  }
  return std::sqrt(2.0) * largest;
}

}  // namespace

size_t check_tensors(const Gguf& gguf, const Config* config) {
  size_t n_found = 0;
  const auto report = [&](const std::string& where, const std::string& what) {
    ++n_found;
    std::cerr << printable(gguf.file_name()) << ": " << printable(where) << ": " << what << '\n';
  };
  const size_t n_layers = config != nullptr ? config->n_layers() : 0;
  Progress progress("checking", gguf.tensors().size() + n_layers);
  size_t done = 0;
  for (const GgufTensor& tensor : gguf.tensors()) {
    progress.update(done++, tensor.name);
    if (const size_t bad = count_non_finite(tensor)) {
      report("tensor '" + std::string(tensor.name) + "'",
             std::to_string(bad) + " values are NaN or infinite");
    }
  }
  // Without a norm before them nothing limits keys and values.
  if (config == nullptr || !config->norm_before) return n_found;
  const Weights weights = bind_weights(gguf, *config);
  for (size_t layer = 0; layer < n_layers; ++layer) {
    progress.update(done++, "what a cache can hold");
    const BlockWeights& block = weights.blocks[layer];
    const auto check = [&](const char* what, double largest) {
      if (!(largest > largest_f16)) return;  // NaN was reported
      report("layer " + std::to_string(layer),
             format("its %s may reach %.3g, a cache of f16 holds up to %.0f; run the model with "
                    "--cache-type f32",
                    what, largest, largest_f16));
    };
    check("keys", largest_key(block, config->qk_norm));
    check("values", largest_output(block.attn_v, block.attn_norm));
  }
  return n_found;
}

}  // namespace vga
