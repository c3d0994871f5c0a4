#include "panels.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <new>
#include <vector>

#include <sys/mman.h>

#include "../blocks.h"

namespace vga::cpu {
namespace {

constexpr size_t group_cols = 32;
constexpr size_t super_groups = 8;  // groups in a super-block

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
void store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

/// 32 columns of one row. A step is a word of four columns, one byte each.
struct RowBlock {
  uint8_t scales[2];  // K formats: scale and min, or the scales of each 16 columns
  uint32_t low[8];    // steps: the lower four bits, or all eight
  uint32_t high[8];   // steps: the bits above, moved down to bit 0
};

/// Bits 0 to 3 to the lowest bits of four bytes.
uint32_t spread_bits(uint32_t bits) {
  return bits * 0x00204081 & 0x01010101;
}

void split_nibbles(const std::byte* from, RowBlock& out) {
  for (size_t i = 0; i < 4; ++i) {
    const auto word = load<uint32_t>(from + 4 * i);
    out.low[i] = word & 0x0F0F0F0F;
    out.low[i + 4] = word >> 4 & 0x0F0F0F0F;
  }
}

void split_fifth_bits(const std::byte* from, RowBlock& out) {
  const auto bits = load<uint32_t>(from);
  for (size_t i = 0; i < 8; ++i) out.high[i] = spread_bits(bits >> 4 * i & 0xF);
}

/// Scale and min of group `sub` of a q4_k or q5_k block.
void split_scales(const std::byte* packed, size_t sub, RowBlock& out) {
  const auto at = [&](size_t i) { return std::to_integer<unsigned>(packed[i]); };
  if (sub < 4) {
    out.scales[0] = static_cast<uint8_t>(at(sub) & 63);
    out.scales[1] = static_cast<uint8_t>(at(sub + 4) & 63);
  } else {
    out.scales[0] = static_cast<uint8_t>((at(sub + 4) & 15) | at(sub - 4) >> 6 << 4);
    out.scales[1] = static_cast<uint8_t>(at(sub + 4) >> 4 | at(sub) >> 6 << 4);
  }
}

void split_nibble_pairs(const std::byte* nibbles, size_t sub, RowBlock& out) {
  for (size_t i = 0; i < 8; ++i) {
    const auto word = load<uint32_t>(nibbles + sub / 2 * 32 + 4 * i);
    out.low[i] = word >> sub % 2 * 4 & 0x0F0F0F0F;
  }
}

/// How a format lies in a panel, and how 32 columns of it are taken from a row of the file.
struct PanelFormat {
  size_t halves;      // f16 numbers per row and block (or super-block)
  bool super;         // a block is a super-block of 8 groups with two scale bytes each
  unsigned low_bits;  // 8, or 4 in nibbles
  unsigned high_bits;
  std::array<size_t, 2> half_offset;  // where those numbers are in the block of the file
  /// Takes group `sub` (0 without super-blocks) of a block of the file.
  void (*split)(const std::byte* block, size_t sub, RowBlock& out);

  size_t header_bytes(size_t rows) const { return halves * 2 * rows; }
  size_t sub_header_bytes(size_t rows) const { return super ? 2 * rows : 0; }
  size_t bits_bytes(size_t rows) const { return high_bits * 4 * rows; }
  size_t sub_bytes(size_t rows) const {
    return sub_header_bytes(rows) + bits_bytes(rows) + low_bits * 4 * rows;
  }
  size_t n_subs() const { return super ? super_groups : 1; }
  size_t block_bytes(size_t rows) const { return header_bytes(rows) + n_subs() * sub_bytes(rows); }
};

const PanelFormat& panel_format(DType type) {
  static constexpr PanelFormat q8_0 = {
      1, false, 8, 0, {offsetof(BlockQ8_0, d)}, [](const std::byte* b, size_t, RowBlock& out) {
        for (size_t i = 0; i < 8; ++i) {
          out.low[i] = load<uint32_t>(b + offsetof(BlockQ8_0, q) + 4 * i) ^ 0x80808080;  // + 128
        }
      }};
  static constexpr PanelFormat q4_0 = {
      1, false, 4, 0, {offsetof(BlockQ4_0, d)}, [](const std::byte* b, size_t, RowBlock& out) {
        split_nibbles(b + offsetof(BlockQ4_0, q), out);
      }};
  static constexpr PanelFormat q4_1 = {2,
                                       false,
                                       4,
                                       0,
                                       {offsetof(BlockQ4_1, d), offsetof(BlockQ4_1, m)},
                                       [](const std::byte* b, size_t, RowBlock& out) {
                                         split_nibbles(b + offsetof(BlockQ4_1, q), out);
                                       }};
  static constexpr PanelFormat q5_0 = {
      1, false, 4, 1, {offsetof(BlockQ5_0, d)}, [](const std::byte* b, size_t, RowBlock& out) {
        split_fifth_bits(b + offsetof(BlockQ5_0, high), out);
        split_nibbles(b + offsetof(BlockQ5_0, q), out);
      }};
  static constexpr PanelFormat q5_1 = {2,
                                       false,
                                       4,
                                       1,
                                       {offsetof(BlockQ5_1, d), offsetof(BlockQ5_1, m)},
                                       [](const std::byte* b, size_t, RowBlock& out) {
                                         split_fifth_bits(b + offsetof(BlockQ5_1, high), out);
                                         split_nibbles(b + offsetof(BlockQ5_1, q), out);
                                       }};
  static constexpr PanelFormat q4_k = {2,
                                       true,
                                       4,
                                       0,
                                       {offsetof(BlockQ4_K, d), offsetof(BlockQ4_K, dmin)},
                                       [](const std::byte* b, size_t sub, RowBlock& out) {
                                         split_scales(b + offsetof(BlockQ4_K, scales), sub, out);
                                         split_nibble_pairs(b + offsetof(BlockQ4_K, q), sub, out);
                                       }};
  static constexpr PanelFormat q5_k = {
      2,
      true,
      4,
      1,
      {offsetof(BlockQ5_K, d), offsetof(BlockQ5_K, dmin)},
      [](const std::byte* b, size_t sub, RowBlock& out) {
        split_scales(b + offsetof(BlockQ5_K, scales), sub, out);
        for (size_t i = 0; i < 8; ++i) {
          const auto bits = load<uint32_t>(b + offsetof(BlockQ5_K, high) + 4 * i);
          out.high[i] = bits >> sub & 0x01010101;
        }
        split_nibble_pairs(b + offsetof(BlockQ5_K, q), sub, out);
      }};
  static constexpr PanelFormat q6_k = {
      1, true, 4, 2, {offsetof(BlockQ6_K, d)}, [](const std::byte* b, size_t sub, RowBlock& out) {
        const size_t half = sub / 4;
        const size_t quarter = sub % 4;
        const std::byte* low = b + offsetof(BlockQ6_K, low) + 64 * half + quarter % 2 * 32;
        const std::byte* high = b + offsetof(BlockQ6_K, high) + 32 * half;
        for (size_t i = 0; i < 8; ++i) {
          out.low[i] = load<uint32_t>(low + 4 * i) >> quarter / 2 * 4 & 0x0F0F0F0F;
          out.high[i] = load<uint32_t>(high + 4 * i) >> 2 * quarter & 0x03030303;
        }
        out.scales[0] = load<uint8_t>(b + offsetof(BlockQ6_K, scale) + 2 * sub);
        out.scales[1] = load<uint8_t>(b + offsetof(BlockQ6_K, scale) + 2 * sub + 1);
      }};
  switch (type) {
    case DType::q8_0:
      return q8_0;
    case DType::q4_0:
      return q4_0;
    case DType::q4_1:
      return q4_1;
    case DType::q5_0:
      return q5_0;
    case DType::q5_1:
      return q5_1;
    case DType::q4_k:
      return q4_k;
    case DType::q5_k:
      return q5_k;
    case DType::q6_k:
      return q6_k;
    default:
      assert(false);
      return q8_0;
  }
}

/// One column of a panel of plain numbers.
template <class T>
void write_columns(const Tensor& weight, size_t first_row, size_t n_rows, size_t panel_rows,
                   std::byte* panel) {
  for (size_t r = 0; r < n_rows; ++r) {
    const std::byte* row = weight.row(first_row + r);
    for (size_t c = 0; c < weight.cols; ++c) {
      store(panel + (c * panel_rows + r) * sizeof(T), load<T>(row + c * sizeof(T)));
    }
  }
}

void write_blocks(const Tensor& weight, size_t first_row, size_t n_rows, size_t rows,
                  std::byte* panel) {
  const PanelFormat& format = panel_format(weight.type);
  const size_t file_block = block_bytes(weight.type);
  const size_t n_blocks = weight.cols / block_elements(weight.type);
  for (size_t block = 0; block < n_blocks; ++block, panel += format.block_bytes(rows)) {
    for (size_t r = 0; r < n_rows; ++r) {
      const std::byte* from = weight.row(first_row + r) + block * file_block;
      for (size_t i = 0; i < format.halves; ++i) {
        store(panel + (i * rows + r) * 2, load<uint16_t>(from + format.half_offset[i]));
      }
      std::byte* to = panel + format.header_bytes(rows);
      for (size_t sub = 0; sub < format.n_subs(); ++sub, to += format.sub_bytes(rows)) {
        RowBlock row = {};
        format.split(from, sub, row);
        if (format.super) {
          store(to + r, row.scales[0]);
          store(to + rows + r, row.scales[1]);
        }
        std::byte* bits = to + format.sub_header_bytes(rows) + 4 * r;
        std::byte* low = bits + format.bits_bytes(rows);
        const auto step = [&](std::byte* steps, size_t i) { return steps + i * 4 * rows; };
        if (format.high_bits == 1) {
          uint32_t word = 0;
          for (size_t i = 0; i < 8; ++i) word |= row.high[i] << i;
          store(bits, word);
        } else if (format.high_bits == 2) {
          for (size_t half = 0; half < 2; ++half) {
            uint32_t word = 0;
            for (size_t i = 0; i < 4; ++i) word |= row.high[4 * half + i] << 2 * i;
            store(step(bits, half), word);
          }
        }
        if (format.low_bits == 8) {
          for (size_t i = 0; i < 8; ++i) store(step(low, i), row.low[i]);
        } else {
          for (size_t i = 0; i < 4; ++i) store(step(low, i), row.low[i] | row.low[i + 4] << 4);
        }
      }
    }
  }
}

size_t align(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

}  // namespace

size_t panel_bytes(DType type, size_t cols, size_t panel_rows) {
  if (block_elements(type) == 1) return align(cols * panel_rows * block_bytes(type));
  return align(cols / block_elements(type) * panel_format(type).block_bytes(panel_rows));
}

void write_panel(const Tensor& weight, size_t first_row, size_t panel_rows, std::byte* panel) {
  const size_t n_rows = std::min(panel_rows, weight.rows - first_row);
  if (weight.type == DType::f32) {
    write_columns<uint32_t>(weight, first_row, n_rows, panel_rows, panel);
  } else if (block_elements(weight.type) == 1) {
    write_columns<uint16_t>(weight, first_row, n_rows, panel_rows, panel);
  } else {
    write_blocks(weight, first_row, n_rows, panel_rows, panel);
  }
}

void Panels::Unmap::operator()(std::byte* memory) const {
  ::munmap(memory, bytes);
}

Panels::Panels(const Weights& weights, size_t panel_rows, ThreadPool& threads,
               const std::function<void(const Tensor&)>& done)
    : weights_(weights) {
  std::vector<Tensor*> matrices;
  for (BlockWeights& b : weights_.blocks) {
    for (Tensor* matrix : {&b.attn_q, &b.attn_k, &b.attn_v, &b.attn_gate, &b.attn_output,
                           &b.ffn_gate, &b.ffn_up, &b.ffn_down}) {
      if (*matrix) matrices.push_back(matrix);
    }
  }
  matrices.push_back(&weights_.output);
  const auto n_panels = [&](const Tensor& t) { return (t.rows - 1) / panel_rows + 1; };
  size_t bytes = 0;
  for (const Tensor* t : matrices)
    bytes += n_panels(*t) * panel_bytes(t->type, t->cols, panel_rows);

  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = {static_cast<std::byte*>(memory), Unmap{bytes}};
#if defined(MADV_HUGEPAGE)
  ::madvise(memory, bytes, MADV_HUGEPAGE);  // fewer, larger pages stream faster; a wish
#endif

  std::byte* at = memory_.get();
  for (Tensor* t : matrices) {
    const Tensor from = *t;
    const size_t size = panel_bytes(from.type, from.cols, panel_rows);
    threads.run(n_panels(from), grain_for(from.cols * panel_rows),
                [&](size_t begin, size_t end, size_t) {
                  for (size_t i = begin; i < end; ++i) {
                    write_panel(from, i * panel_rows, panel_rows, at + i * size);
                  }
                });
    t->data = at;
    t->panel_rows = static_cast<uint32_t>(panel_rows);
    at += n_panels(from) * size;
    if (done) done(from);
  }
}

}  // namespace vga::cpu
