#include "cpu/panels.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <vector>

#include "base/load.h"
#include "gguf/blocks.h"

namespace vga::cpu {
namespace {

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

// How each format lies in a panel, and how group `sub` of a block is taken from a row of the file:
//   halves     where the f16 numbers of a block are in the file
//   groups     of 32 columns in a block; with more than one, each has two scale bytes
//   high_bits  bits of a column that are apart from the low four (or all eight) ones

struct Q8_0 {
  using Block = BlockQ8_0;
  static constexpr std::array<size_t, 1> halves = {offsetof(Block, d)};
  static constexpr size_t groups = 1;
  static constexpr unsigned low_bits = 8;
  static constexpr unsigned high_bits = 0;
  static void split(const std::byte* block, size_t, RowBlock& out) {
    for (size_t i = 0; i < 8; ++i) {
      out.low[i] = load<uint32_t>(block + offsetof(Block, q) + 4 * i) ^ 0x80808080;  // + 128
    }
  }
};

struct Q4_0 {
  using Block = BlockQ4_0;
  static constexpr std::array<size_t, 1> halves = {offsetof(Block, d)};
  static constexpr size_t groups = 1;
  static constexpr unsigned low_bits = 4;
  static constexpr unsigned high_bits = 0;
  static void split(const std::byte* block, size_t, RowBlock& out) {
    split_nibbles(block + offsetof(Block, q), out);
  }
};

struct Q4_1 {
  using Block = BlockQ4_1;
  static constexpr std::array<size_t, 2> halves = {offsetof(Block, d), offsetof(Block, m)};
  static constexpr size_t groups = 1;
  static constexpr unsigned low_bits = 4;
  static constexpr unsigned high_bits = 0;
  static void split(const std::byte* block, size_t, RowBlock& out) {
    split_nibbles(block + offsetof(Block, q), out);
  }
};

struct Q5_0 {
  using Block = BlockQ5_0;
  static constexpr std::array<size_t, 1> halves = {offsetof(Block, d)};
  static constexpr size_t groups = 1;
  static constexpr unsigned low_bits = 4;
  static constexpr unsigned high_bits = 1;
  static void split(const std::byte* block, size_t, RowBlock& out) {
    split_fifth_bits(block + offsetof(Block, high), out);
    split_nibbles(block + offsetof(Block, q), out);
  }
};

struct Q5_1 {
  using Block = BlockQ5_1;
  static constexpr std::array<size_t, 2> halves = {offsetof(Block, d), offsetof(Block, m)};
  static constexpr size_t groups = 1;
  static constexpr unsigned low_bits = 4;
  static constexpr unsigned high_bits = 1;
  static void split(const std::byte* block, size_t, RowBlock& out) {
    split_fifth_bits(block + offsetof(Block, high), out);
    split_nibbles(block + offsetof(Block, q), out);
  }
};

struct Q4_K {
  using Block = BlockQ4_K;
  static constexpr std::array<size_t, 2> halves = {offsetof(Block, d), offsetof(Block, dmin)};
  static constexpr size_t groups = 8;
  static constexpr unsigned low_bits = 4;
  static constexpr unsigned high_bits = 0;
  static void split(const std::byte* block, size_t sub, RowBlock& out) {
    split_scales(block + offsetof(Block, scales), sub, out);
    split_nibble_pairs(block + offsetof(Block, q), sub, out);
  }
};

struct Q5_K {
  using Block = BlockQ5_K;
  static constexpr std::array<size_t, 2> halves = {offsetof(Block, d), offsetof(Block, dmin)};
  static constexpr size_t groups = 8;
  static constexpr unsigned low_bits = 4;
  static constexpr unsigned high_bits = 1;
  static void split(const std::byte* block, size_t sub, RowBlock& out) {
    split_scales(block + offsetof(Block, scales), sub, out);
    for (size_t i = 0; i < 8; ++i) {
      const auto bits = load<uint32_t>(block + offsetof(Block, high) + 4 * i);
      out.high[i] = bits >> sub & 0x01010101;
    }
    split_nibble_pairs(block + offsetof(Block, q), sub, out);
  }
};

struct Q6_K {
  using Block = BlockQ6_K;
  static constexpr std::array<size_t, 1> halves = {offsetof(Block, d)};
  static constexpr size_t groups = 8;
  static constexpr unsigned low_bits = 4;
  static constexpr unsigned high_bits = 2;
  static void split(const std::byte* block, size_t sub, RowBlock& out) {
    const size_t half = sub / 4;
    const size_t quarter = sub % 4;
    const std::byte* low = block + offsetof(Block, low) + 64 * half + quarter % 2 * 32;
    const std::byte* high = block + offsetof(Block, high) + 32 * half;
    for (size_t i = 0; i < 8; ++i) {
      out.low[i] = load<uint32_t>(low + 4 * i) >> quarter / 2 * 4 & 0x0F0F0F0F;
      out.high[i] = load<uint32_t>(high + 4 * i) >> 2 * quarter & 0x03030303;
    }
    out.scales[0] = load<uint8_t>(block + offsetof(Block, scale) + 2 * sub);
    out.scales[1] = load<uint8_t>(block + offsetof(Block, scale) + 2 * sub + 1);
  }
};

/// Calls f with the format of a quantized type.
template <class F>
auto with_format(DType type, F&& f) {
  switch (type) {
    case DType::q8_0:
      return f(Q8_0());
    case DType::q4_0:
      return f(Q4_0());
    case DType::q4_1:
      return f(Q4_1());
    case DType::q5_0:
      return f(Q5_0());
    case DType::q5_1:
      return f(Q5_1());
    case DType::q4_k:
      return f(Q4_K());
    case DType::q5_k:
      return f(Q5_K());
    case DType::q6_k:
      return f(Q6_K());
    case DType::f32:
    case DType::f16:
    case DType::bf16:
      break;
  }
  assert(false);
  return f(Q8_0());
}

/// Where the parts of a block of a format lie in a panel of some rows, in bytes.
template <class Format>
struct PanelBlock {
  size_t rows;

  size_t scales() const { return Format::groups > 1 ? 2 * rows : 0; }
  size_t bits() const { return Format::high_bits * 4 * rows; }
  size_t header() const { return Format::halves.size() * 2 * rows; }
  size_t group() const { return scales() + bits() + Format::low_bits * 4 * rows; }
  size_t bytes() const { return header() + Format::groups * group(); }
};

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

template <class Format>
void write_blocks(const Tensor& weight, size_t first_row, size_t n_rows, size_t rows,
                  std::byte* panel) {
  const PanelBlock<Format> block{rows};
  const size_t n_blocks = weight.cols / Format::Block::elements;
  for (size_t i = 0; i < n_blocks; ++i, panel += block.bytes()) {
    for (size_t r = 0; r < n_rows; ++r) {
      const std::byte* from = weight.row(first_row + r) + i * sizeof(typename Format::Block);
      for (size_t half = 0; half < Format::halves.size(); ++half) {
        store(panel + (half * rows + r) * 2, load<uint16_t>(from + Format::halves[half]));
      }
      std::byte* group = panel + block.header();
      for (size_t sub = 0; sub < Format::groups; ++sub, group += block.group()) {
        RowBlock row;
        Format::split(from, sub, row);
        if constexpr (Format::groups > 1) {
          store(group + r, row.scales[0]);
          store(group + rows + r, row.scales[1]);
        }
        std::byte* high = group + block.scales() + 4 * r;
        std::byte* low = high + block.bits();
        const size_t step = 4 * rows;
        if constexpr (Format::high_bits == 1) {
          uint32_t word = 0;
          for (size_t k = 0; k < 8; ++k) word |= row.high[k] << k;
          store(high, word);
        } else if constexpr (Format::high_bits == 2) {
          for (size_t half = 0; half < 2; ++half) {
            uint32_t word = 0;
            for (size_t k = 0; k < 4; ++k) word |= row.high[4 * half + k] << 2 * k;
            store(high + half * step, word);
          }
        }
        if constexpr (Format::low_bits == 8) {
          for (size_t k = 0; k < 8; ++k) store(low + k * step, row.low[k]);
        } else {
          for (size_t k = 0; k < 4; ++k) store(low + k * step, row.low[k] | row.low[k + 4] << 4);
        }
      }
    }
  }
}

size_t align(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

/// Bytes of rows that are in memory along with the panels made of them: enough to keep all threads
/// busy.
constexpr size_t band_bytes = 16 << 20;

}  // namespace

size_t panel_rows(const Tensor& weight, size_t lanes) {
  if (!is_plain(weight.type)) return lanes;
  return std::min(plain_panel_vectors, (weight.rows - 1) / lanes + 1) * lanes;
}

size_t panel_bytes(const Tensor& weight, size_t lanes) {
  if (is_plain(weight.type)) {
    return align(weight.cols * panel_rows(weight, lanes) * block_bytes(weight.type));
  }
  return with_format(weight.type, [&]<class Format>(Format) {
    return align(weight.cols / Format::Block::elements * PanelBlock<Format>{lanes}.bytes());
  });
}

size_t n_panels(const Tensor& weight, size_t lanes) {
  return (weight.rows - 1) / panel_rows(weight, lanes) + 1;
}

void write_panel(const Tensor& weight, size_t index, size_t lanes, std::byte* panels) {
  std::byte* panel = panels + index * panel_bytes(weight, lanes);
  const size_t rows = panel_rows(weight, lanes);
  const size_t first_row = index * rows;
  const size_t n_rows = std::min(rows, weight.rows - first_row);
  if (weight.type == DType::f32) {
    write_columns<uint32_t>(weight, first_row, n_rows, rows, panel);
  } else if (is_plain(weight.type)) {
    write_columns<uint16_t>(weight, first_row, n_rows, rows, panel);
  } else {
    with_format(weight.type, [&]<class Format>(Format) {
      write_blocks<Format>(weight, first_row, n_rows, rows, panel);
    });
  }
}

Panels::Panels(std::span<Tensor* const> matrices, std::span<Tensor* const> vectors, size_t lanes,
               ThreadPool& threads, const Done& done) {
  const auto bytes_of = [&](const Tensor& t) { return n_panels(t, lanes) * panel_bytes(t, lanes); };
  const auto vector_bytes = [](const Tensor& t) { return t.rows * row_bytes(t.type, t.cols); };
  size_t bytes = 0;
  for (const Tensor* t : matrices) bytes += bytes_of(*t);
  for (const Tensor* t : vectors) bytes += align(vector_bytes(*t));
  memory_ = large_memory(bytes);

  std::byte* at = memory_.get();
  for (Tensor* t : matrices) {
    const Tensor from = *t;
    const size_t rows = panel_rows(from, lanes);
    const size_t n = n_panels(from, lanes);
    const size_t band = std::max<size_t>(band_bytes / (rows * row_bytes(from.type, from.cols)), 1);
    for (size_t first = 0; first < n; first += band) {
      const size_t n_written = std::min(band, n - first);
      threads.run(n_written, grain_for(rows * from.cols), [&](size_t begin, size_t end, size_t) {
        for (size_t i = begin; i < end; ++i) write_panel(from, first + i, lanes, at);
      });
      // Between the rows of one that takes turns lie those of another, which may still be wanted.
      if (!done || from.turn > 0) continue;
      const std::byte* end = from.row(std::min((first + n_written) * rows, from.rows));
      done(from, {from.row(first * rows), end});
    }
    t->data = at;
    t->layout = Layout::panels;
    at += bytes_of(from);
  }
  // Each lay in a page of its own, which a token would have to look up for some bytes.
  for (Tensor* t : vectors) {
    std::memcpy(at, t->data, vector_bytes(*t));
    t->data = at;
    at += align(vector_bytes(*t));
  }
}

}  // namespace vga::cpu
