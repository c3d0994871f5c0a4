#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "base/file.h"
#include "cpu/threads.h"
#include "vga/dtype.h"

namespace vga {

/// What encoding did to a tensor.
struct EncodingError {
  double relative;  // root mean square of the differences, divided by that of the elements
  float max;        // the largest difference
};

/// Encodes tensors, several rows at a time, and writes them into a file.
class TensorEncoder {
 public:
  /// Fills `out` with row `r`; called from several threads.
  using ReadRow = std::function<void(size_t r, std::span<float> out)>;
  /// Called with the bytes written so far; false stops.
  using Progress = std::function<bool(uint64_t done)>;

  /// 0: a thread for each physical core.
  explicit TensorEncoder(size_t n_threads = 0);

  /// Writes `rows` rows of `cols` elements as `type`. NaN, infinity and values too large for the
  /// type are an Error that begins with `where`. nullopt if `progress` stopped it.
  std::optional<EncodingError> write(size_t rows, size_t cols, DType type, std::string_view where,
                                     const ReadRow& read_row, const Progress& progress,
                                     OutputFile& out);

 private:
  cpu::ThreadPool threads_;
};

}  // namespace vga
