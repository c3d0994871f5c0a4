#include "tensor_encoder.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gguf/decode.h"
#include "gguf/encode.h"
#include "vga/error.h"

namespace vga {
namespace {

/// Elements between two looks at the progress: some milliseconds of work.
constexpr size_t piece_elements = 1 << 18;

/// What became of a row.
struct RowResult {
  double squares = 0;  // sums
  double squared_errors = 0;
  float max_error = 0;
  std::optional<float> bad;  // an element that cannot be stored
};

bool is_finite(float x) {
  return std::isfinite(x);
}

/// `in` and `decoded` are the row before and after; `in` may hold anything.
RowResult encode(DType type, std::span<const float> in, std::byte* row, std::span<float> decoded) {
  RowResult result;
  if (const auto bad = std::ranges::find_if_not(in, is_finite); bad != in.end()) {
    result.bad = *bad;
    return result;
  }
  encode_row(type, in, row);
  decode_row(type, row, decoded);
  if (!std::ranges::all_of(decoded, is_finite)) {
    result.bad = *std::ranges::max_element(in, {}, [](float x) { return std::fabs(x); });
    return result;
  }
  for (size_t i = 0; i < in.size(); ++i) {
    const float error = decoded[i] - in[i];
    result.squares += double{in[i]} * double{in[i]};
    result.squared_errors += double{error} * double{error};
    result.max_error = std::max(result.max_error, std::fabs(error));
  }
  return result;
}

}  // namespace

TensorEncoder::TensorEncoder(size_t n_threads)
    : threads_(n_threads == 0 ? cpu::default_threads() : n_threads) {}

std::optional<EncodingError> TensorEncoder::write(size_t rows, size_t cols, DType type,
                                                  std::string_view where, const ReadRow& read_row,
                                                  const Progress& progress, OutputFile& out) {
  const size_t piece = std::clamp<size_t>(piece_elements / cols, 1, rows);
  const size_t stride = row_bytes(type, cols);
  std::vector<std::byte> encoded(piece * stride);         // (piece, stride)
  std::vector<RowResult> results(piece);                  // (piece)
  std::vector<float> floats(threads_.size() * 2 * cols);  // (threads, 2, cols)
  RowResult total;
  for (size_t first = 0; first < rows; first += piece) {
    if (progress && !progress(out.size())) return std::nullopt;
    const size_t n = std::min(piece, rows - first);
    threads_.run(n, 1, [&](size_t begin, size_t end, size_t thread) {
      const auto in = std::span(floats).subspan(thread * 2 * cols, cols);
      const auto decoded = std::span(floats).subspan((thread * 2 + 1) * cols, cols);
      for (size_t i = begin; i < end; ++i) {
        read_row(first + i, in);
        results[i] = encode(type, in, encoded.data() + i * stride, decoded);
      }
    });
    for (size_t i = 0; i < n; ++i) {
      if (const auto bad = results[i].bad) {
        throw Error(where, "row " + std::to_string(first + i) + " holds " + std::to_string(*bad) +
                               (std::isfinite(*bad) ? ", too large for " + std::string(name(type))
                                                    : "; weights must be finite"));
      }
      total.squares += results[i].squares;
      total.squared_errors += results[i].squared_errors;
      total.max_error = std::max(total.max_error, results[i].max_error);
    }
    out.write(std::span(encoded).first(n * stride));
  }
  const double relative = total.squares > 0 ? std::sqrt(total.squared_errors / total.squares) : 0;
  return EncodingError{relative, total.max_error};
}

}  // namespace vga
