#pragma once

#include <functional>
#include <span>

#include "compute/device.h"
#include "cpu/large_memory.h"
#include "cpu/threads.h"

namespace vga::cpu {

/// Weights arranged for vector units. A panel holds as many rows as a vector has lanes, column by
/// column, so that one load brings one column of all its rows, or four columns of quantized ones,
/// and a product needs no sum across lanes. Plain numbers, which take little computing, have four
/// vectors of rows in a panel, or as many as the matrix has: their sums do not wait for each other.
/// A panel lies in one piece, which is what memory likes.
///
/// R rows, blocks of 32 columns; a step is four columns, R * 4 bytes, row by row:
///
///   f32 f16 bf16  a column: R elements, R being up to four times the lanes
///   q8_0          R f16 d | 8 steps of q + 128
///   q4_0          R f16 d | nibbles
///   q4_1          R f16 d, R f16 m | nibbles
///   q5_0          R f16 d | fifth bits | nibbles
///   q5_1          R f16 d, R f16 m | fifth bits | nibbles
///   q4_k          per 256: R f16 d, R f16 dmin, then 8 times: R scales, R mins | nibbles
///   q5_k          per 256: R f16 d, R f16 dmin, then 8 times: R scales, R mins | fifth bits |
///                 nibbles
///   q6_k          per 256: R f16 d, then 8 times: R scales of columns 0-15, R of 16-31 | upper
///                 bits | nibbles
///
///   nibbles       4 steps' bytes: step i in the low half of each byte, step i + 4 in the high one
///   fifth bits    1 step's bytes: bit i of a byte belongs to step i
///   upper bits    2 steps' bytes: bits 2i and 2i + 1 in the h-th belong to step 4h + i
///
/// Scales and mins are bytes as the format defines them: 6 bits, in q6_k 8 bits and signed. Rows
/// past the last one are zeros.
size_t panel_bytes(const Tensor& weight, size_t lanes);
constexpr size_t plain_panel_vectors = 4;

/// Rows of a panel, and panels that a row-major weight makes, for vectors of so many lanes.
size_t panel_rows(const Tensor& weight, size_t lanes);
size_t n_panels(const Tensor& weight, size_t lanes);
/// Writes the panel `index` to its place among all of them.
void write_panel(const Tensor& weight, size_t index, size_t lanes, std::byte* panels);

/// Matrices in panels, and the vectors beside them, in memory of their own.
class Panels {
 public:
  /// Hears of each matrix band by band, so that its memory can go before the next one takes more.
  using Done = std::function<void(const Tensor& matrix, std::span<const std::byte> band)>;

  /// Rearranges every matrix, on all `threads`, a band of rows at a time. All become views of this
  /// memory.
  Panels(std::span<Tensor* const> matrices, std::span<Tensor* const> vectors, size_t lanes,
         ThreadPool& threads, const Done& done);

 private:
  LargeMemory memory_;
};

}  // namespace vga::cpu
