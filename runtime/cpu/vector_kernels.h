#pragma once

#include <cstring>
#include <utility>

#include "../blocks.h"
#include "kernels.h"

/// The kernels, written once over a vector type V that an instruction set's own file defines:
///
///   lanes                  floats in a vector, which is also the rows of a panel
///   float_tile             tokens that a product takes at once
///   float_sums             vectors of sums that registers hold
///   Floats, Ints           a vector of floats; of lanes 32-bit words or four times as many bytes
///   load, store, load_part, store_part, set1, load_f16, load_bf16, load_s8, ...
///   dot<Group, first, n>   n steps of a group of quantized weights, with as many activations
///   finish_group<parts>    activations as dot() takes them
///
/// V and therefore every function here has internal linkage: the linker keeps one copy of a
/// function that has not, and if that were one compiled for AVX-512, every other CPU would crash in
/// it. For the same reason nothing inline from elsewhere is called.
namespace vga::cpu {

/// Calls f with 0, 1, ... n - 1 as compile-time constants.
template <size_t n, class F>
[[gnu::always_inline]] inline void unrolled(F&& f) {
  [&]<size_t... i>(std::index_sequence<i...>) {
    (f(std::integral_constant<size_t, i>()), ...);
  }
  (std::make_index_sequence<n>());
}

consteval unsigned log2(unsigned power) {
  return power > 1 ? 1 + log2(power / 2) : 0;
}

template <class V>
class VectorKernels {
  using Floats = typename V::Floats;
  using Ints = typename V::Ints;
  static constexpr size_t lanes = V::lanes;
  static constexpr size_t step_bytes = lanes * 4;

  static constexpr size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
  static constexpr size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

  template <class T>
  static T read(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }

  // -- Weights ------------------------------------------------------------------------------------
  //
  // How panels of each type are read; panels.h has the layout. Plain types give a column at a time,
  // quantized ones steps of a group of 32 columns, and what those are scaled by.

  struct F32 {
    static constexpr size_t column_bytes = lanes * 4;
    static Floats load(const std::byte* from) {
      return V::load(reinterpret_cast<const float*>(from));
    }
  };
  struct F16 {
    static constexpr size_t column_bytes = lanes * 2;
    static Floats load(const std::byte* from) { return V::load_f16(from); }
  };
  struct BF16 {
    static constexpr size_t column_bytes = lanes * 2;
    static Floats load(const std::byte* from) { return V::load_bf16(from); }
  };

  /// Values of a cache in q8_0; their scales are in the weights that they are multiplied by.
  struct S8 {
    static constexpr size_t column_bytes = lanes;
    static Floats load(const std::byte* from) { return V::load_s8(from); }
  };

  /// Step i of nibbles.
  template <size_t i>
  static Ints nibbles(const std::byte* from) {
    const Ints both = V::load_bytes(from + i % 4 * step_bytes);
    if constexpr (i < 4) return V::and_bytes(both, 0x0F);
    return V::and_bytes(V::template shift_right<4>(both), 0x0F);
  }

  /// Step i of nibbles with one more bit.
  template <size_t i>
  static Ints nibbles_and_fifth(const std::byte* fifth, const std::byte* low) {
    const Ints bits = V::load_bytes(fifth);
    Ints moved;
    if constexpr (i < 4) {
      moved = V::template shift_left<4 - i>(bits);
    } else {
      moved = V::template shift_right<i - 4>(bits);
    }
    return V::or_bytes(nibbles<i>(low), V::and_bytes(moved, 0x10));
  }

  // A group of each type: q in steps, to be understood as q - zero, q < 2^bits; the result of its
  // part p is scaled by scale(p), and with has_min a min() times the activations' sum is added.

  struct Q8_0 {
    static constexpr unsigned bits = 8;
    static constexpr unsigned zero = 128;
    static constexpr size_t parts = 1;
    static constexpr bool has_min = false;
    const std::byte* at;
    Q8_0(const std::byte* panel, size_t group) : at(panel + group * bytes) {}
    static constexpr size_t bytes = lanes * sizeof(BlockQ8_0);
    Floats scale(size_t) const { return V::load_f16(at); }
    template <size_t i>
    Ints step() const {
      return V::load_bytes(at + 2 * lanes + i * step_bytes);
    }
  };

  /// q4_0 to q5_1: nibbles, perhaps with a fifth bit; without a zero point they have a minimum.
  template <class Block, unsigned n_bits, unsigned zero_point>
  struct Q45 {
    static constexpr unsigned bits = n_bits;
    static constexpr unsigned zero = zero_point;
    static constexpr size_t parts = 1;
    static constexpr bool has_min = zero_point == 0;
    static constexpr size_t bytes = lanes * sizeof(Block);
    static constexpr size_t header_bytes = (has_min ? 4 : 2) * lanes;
    const std::byte* at;
    Q45(const std::byte* panel, size_t group) : at(panel + group * bytes) {}
    Floats scale(size_t) const { return V::load_f16(at); }
    Floats min() const { return V::load_f16(at + 2 * lanes); }
    template <size_t i>
    Ints step() const {
      const std::byte* q = at + header_bytes;
      if constexpr (bits == 5) {
        return nibbles_and_fifth<i>(q, q + step_bytes);
      } else {
        return nibbles<i>(q);
      }
    }
  };
  using Q4_0 = Q45<BlockQ4_0, 4, 8>;
  using Q4_1 = Q45<BlockQ4_1, 4, 0>;
  using Q5_0 = Q45<BlockQ5_0, 5, 16>;
  using Q5_1 = Q45<BlockQ5_1, 5, 0>;

  /// q4_k and q5_k: groups of a super-block, whose scales and mins are bytes times d and dmin.
  template <size_t fifth_bytes>
  struct Q45_K {
    static constexpr unsigned bits = fifth_bytes > 0 ? 5 : 4;
    static constexpr unsigned zero = 0;
    static constexpr size_t parts = 1;
    static constexpr bool has_min = true;
    static constexpr size_t bytes = 2 * lanes + fifth_bytes + 4 * step_bytes;
    const std::byte* super;
    const std::byte* at;
    Q45_K(const std::byte* panel, size_t group)
        : super(panel + group / 8 * (4 * lanes + 8 * bytes)),
          at(super + 4 * lanes + group % 8 * bytes) {}
    Floats scale(size_t) const { return V::mul(V::load_f16(super), V::load_u8(at)); }
    Floats min() const {
      const Floats dmin = V::load_f16(super + 2 * lanes);
      return V::sub(V::zero(), V::mul(dmin, V::load_u8(at + lanes)));
    }
    template <size_t i>
    Ints step() const {
      if constexpr (fifth_bytes > 0) {
        return nibbles_and_fifth<i>(at + 2 * lanes, at + 2 * lanes + fifth_bytes);
      } else {
        return nibbles<i>(at + 2 * lanes);
      }
    }
  };
  using Q4_K = Q45_K<0>;
  using Q5_K = Q45_K<step_bytes>;

  struct Q6_K {
    static constexpr unsigned bits = 6;
    static constexpr unsigned zero = 32;
    static constexpr size_t parts = 2;  // a scale for each 16 columns
    static constexpr bool has_min = false;
    static constexpr size_t bytes = 2 * lanes + 6 * step_bytes;
    const std::byte* super;
    const std::byte* at;
    Q6_K(const std::byte* panel, size_t group)
        : super(panel + group / 8 * (2 * lanes + 8 * bytes)),
          at(super + 2 * lanes + group % 8 * bytes) {}
    Floats scale(size_t part) const {
      return V::mul(V::load_f16(super), V::load_s8(at + part * lanes));
    }
    template <size_t i>
    Ints step() const {
      const std::byte* upper = at + 2 * lanes;
      const Ints bits_of_four = V::load_bytes(upper + i / 4 * step_bytes);
      Ints moved;
      if constexpr (i % 4 < 2) {
        moved = V::template shift_left<4 - 2 * (i % 4)>(bits_of_four);
      } else {
        moved = V::template shift_right<2 * (i % 4) - 4>(bits_of_four);
      }
      return V::or_bytes(nibbles<i>(upper + 2 * step_bytes), V::and_bytes(moved, 0x30));
    }
  };

  // -- Activations --------------------------------------------------------------------------------
  //
  // Tokens are prepared in tiles, as wide as a product takes them: full tiles first, then ever
  // smaller ones. Where a tile begins depends on its first token alone.
  //
  //   float tile of T tokens   (cols, T) f32
  //   int tile of T tokens     per group of 32 columns: (x_parts, T, 32) bytes, then (T) each of
  //                            f32 d, f32 d * sum q, and -sum q as dot() takes it: of the group, of
  //                            its two halves

  static constexpr size_t int_tile = 4;
  static_assert(prepare_group % V::float_tile == 0 && prepare_group % int_tile == 0);
  static constexpr size_t group_cols = 32;
  static constexpr size_t int_token_bytes(size_t parts) {  // per group
    return parts * group_cols + 5 * 4;
  }

  /// The next smaller tile: none of two or three tokens is cut up.
  static constexpr size_t below(size_t T) { return T > 4 ? T / 2 : T - 1; }

  /// Calls tile(std::integral_constant T, first token) for all tiles of n tokens.
  template <size_t T, class F>
  [[gnu::always_inline]] static void each_tile(size_t n, F&& tile) {
    size_t t = 0;
    for (; t + T <= n; t += T) tile(std::integral_constant<size_t, T>(), t);
    if constexpr (T > 1) {
      each_tile<below(T)>(n - t, [&](auto width, size_t first) { tile(width, t + first); });
    }
  }

  template <size_t T>
  static void prepare_floats(const float* x, size_t cols, float* out) {
    for (size_t c = 0; c < cols; ++c) {
      for (size_t t = 0; t < T; ++t) out[c * T + t] = x[t * cols + c];
    }
  }

  template <size_t T, size_t parts>
  static void prepare_ints(const float* x, size_t cols, std::byte* out) {
    for (size_t c = 0; c < cols; c += group_cols, out += T * int_token_bytes(parts)) {
      std::byte* numbers = out + T * parts * group_cols;
      const auto put = [&](size_t array, size_t t, auto value) {
        std::memcpy(numbers + (array * T + t) * 4, &value, 4);
      };
      for (size_t t = 0; t < T; ++t) {
        std::byte* q = out + t * group_cols;
        uint32_t sums[2];  // unsigned: they wrap around where d is no number
        uint32_t negative[3];
        const float d = V::quantize_group(x + t * cols + c, q, sums);
        const auto sum = V::template finish_group<parts>(q, T * group_cols, sums, negative);
        put(0, t, d);
        put(1, t, d * static_cast<float>(static_cast<int32_t>(sum)));
        for (size_t i = 0; i < 3; ++i) put(2 + i, t, negative[i]);
      }
    }
  }

  static bool is_plain(DType type) {
    return type == DType::f32 || type == DType::f16 || type == DType::bf16;
  }

  static void prepare(DType type, const float* x, size_t begin, size_t end, size_t cols,
                      float* out) {
    if (is_plain(type)) {
      each_tile<V::float_tile>(end - begin, [&](auto width, size_t t) {
        prepare_floats<width>(x + (begin + t) * cols, cols, out + (begin + t) * cols);
      });
    } else if (type == DType::q8_0) {
      prepare_int_tiles<V::x_parts(8)>(x, begin, end, cols, reinterpret_cast<std::byte*>(out));
    } else {
      prepare_int_tiles<1>(x, begin, end, cols, reinterpret_cast<std::byte*>(out));
    }
  }

  template <size_t parts>
  static void prepare_int_tiles(const float* x, size_t begin, size_t end, size_t cols,
                                std::byte* out) {
    each_tile<int_tile>(end - begin, [&](auto width, size_t t) {
      prepare_ints<width, parts>(x + (begin + t) * cols, cols,
                                 out + (begin + t) * int_bytes(cols, parts));
    });
  }

  static constexpr size_t int_bytes(size_t cols, size_t parts) {
    return cols / group_cols * int_token_bytes(parts);
  }

  // -- Products -----------------------------------------------------------------------------------
  //
  // One result is one sum over ascending columns (groups), whatever is computed beside it. So it
  // does not matter how many rows and tokens a product takes at once.

  /// The CPU foresees less of a stream than we know, above all of keys and values: products ask
  /// this far ahead. Several streams go to the second-level cache, as the first one can wait for
  /// few lines.
  static constexpr size_t prefetch_bytes = 8192;

  /// Vectors of weights to multiply by T tokens at once: what registers hold sums of, and four
  /// streams at most.
  static constexpr size_t vectors_for(size_t T) { return smaller(4, V::float_sums / T); }

  /// sums[p][t] += w_p(c) * x[c * x_column + t * x_token] over n columns, for P vectors of weights.
  template <class W, size_t P, size_t T, size_t x_column, size_t x_token>
  [[gnu::always_inline]] static void multiply(const std::byte* w, size_t vector_bytes,
                                              size_t column_bytes, size_t n, const float* x,
                                              Floats (&sums)[P][T]) {
    const auto weights = [&](size_t p) {
      const std::byte* from = w + p * vector_bytes;
      __builtin_prefetch(from + prefetch_bytes, 0, 2);
      return W::load(from);
    };
    for (size_t c = 0; c < n; ++c, w += column_bytes, x += x_column) {
      // What there is less of stays in registers, the other passes by: 16 are few.
      if constexpr (T <= P) {
        Floats xs[T];
        for (size_t t = 0; t < T; ++t) xs[t] = V::set1(x[t * x_token]);
        for (size_t p = 0; p < P; ++p) {
          const Floats ws = weights(p);
          for (size_t t = 0; t < T; ++t) sums[p][t] = V::fma(ws, xs[t], sums[p][t]);
        }
      } else {
        Floats ws[P];
        for (size_t p = 0; p < P; ++p) ws[p] = weights(p);
        for (size_t t = 0; t < T; ++t) {
          const Floats xs = V::set1(x[t * x_token]);
          for (size_t p = 0; p < P; ++p) sums[p][t] = V::fma(ws[p], xs, sums[p][t]);
        }
      }
    }
  }

  struct Product {
    const std::byte* panels;  // of the first row
    size_t panel_bytes;
    size_t n_rows;
    size_t cols;
    const std::byte* x;  // prepared
    size_t n_tokens;
    float* out;  // (n_tokens, n_rows), rows out_stride apart
    size_t out_stride;
  };

  /// Stores a vector of results, less what lies behind the last row.
  static void store_rows(const Product& p, size_t t, size_t row, Floats result) {
    float* to = p.out + t * p.out_stride + row;
    if (row + lanes <= p.n_rows) {
      V::store(to, result);
    } else if (row < p.n_rows) {
      V::store_part(to, p.n_rows - row, result);
    }
  }

  template <class W>
  struct FloatProduct {
    static constexpr size_t tile = V::float_tile;
    template <size_t T>
    static constexpr size_t panels = vectors_for(T);

    static size_t token_bytes(size_t cols) { return cols * sizeof(float); }

    template <size_t P, size_t T>
    [[gnu::always_inline]] static void run(const Product& p, size_t row, size_t t) {
      Floats sums[P][T];
      for (auto& of_panel : sums) {
        for (Floats& sum : of_panel) sum = V::zero();
      }
      multiply<W, P, T, T, 1>(p.panels + row / lanes * p.panel_bytes, p.panel_bytes,
                              W::column_bytes, p.cols,
                              reinterpret_cast<const float*>(p.x + t * token_bytes(p.cols)), sums);
      for (size_t i = 0; i < P; ++i) {
        for (size_t j = 0; j < T; ++j) store_rows(p, t + j, row + i * lanes, sums[i][j]);
      }
    }
  };

  template <class Group>
  struct IntProduct {
    static constexpr size_t tile = int_tile;
    /// Two for several tokens, as what is loaded of those then serves twice. One token has to wait
    /// for memory, which is faster in one stream.
    template <size_t T>
    static constexpr size_t panels = T > 2 ? 2 : 1;
    static constexpr size_t x_parts = V::x_parts(Group::bits);

    static size_t token_bytes(size_t cols) { return int_bytes(cols, x_parts); }

    template <size_t P, size_t T>
    [[gnu::always_inline]] static void run(const Product& p, size_t row, size_t t) {
      const std::byte* panel = p.panels + row / lanes * p.panel_bytes;
      const std::byte* x = p.x + t * token_bytes(p.cols);
      Floats sums[P][T];
      for (auto& of_panel : sums) {
        for (Floats& sum : of_panel) sum = V::zero();
      }
      for (size_t g = 0; g < p.cols / group_cols; ++g, x += T * int_token_bytes(x_parts)) {
        const auto group = [&](size_t i) { return Group(panel + i * p.panel_bytes, g); };
        // One stream is for the first-level cache. Where q8_0 is multiplied at once, memory is all
        // there is to wait for, and asking ahead takes time.
        if constexpr (T == 1 && (Group::bits < 8 || x_parts > 1)) {
          const std::byte* ahead = group(0).at + prefetch_bytes;
          for (size_t i = 0; i < Group::bytes; i += 64) __builtin_prefetch(ahead + i);
        }
        const std::byte* numbers = x + T * x_parts * group_cols;
        const auto number = [&](size_t array, size_t i) {
          return V::set1(read<float>(numbers + (array * T + i) * 4));
        };
        unrolled<Group::parts>([&](auto part) {
          constexpr size_t n = 8 / Group::parts;
          Ints dots[P][T];
          const std::byte* negative_sums = numbers + (Group::parts == 1 ? 2 : 3 + part) * T * 4;
          V::template dot<Group, part * n, n>(group, x, negative_sums, dots);
          for (size_t i = 0; i < P; ++i) {
            const Floats scale = group(i).scale(part);
            for (size_t j = 0; j < T; ++j) {
              sums[i][j] =
                  V::fma(V::to_floats(dots[i][j]), V::mul(scale, number(0, j)), sums[i][j]);
            }
          }
        });
        if constexpr (Group::has_min) {
          for (size_t i = 0; i < P; ++i) {
            const Floats min = group(i).min();
            for (size_t j = 0; j < T; ++j) sums[i][j] = V::fma(min, number(1, j), sums[i][j]);
          }
        }
      }
      for (size_t i = 0; i < P; ++i) {
        for (size_t j = 0; j < T; ++j) store_rows(p, t + j, row + i * lanes, sums[i][j]);
      }
    }
  };

  /// A function by itself: inlined into all that project_with() does, GCC would have too few
  /// registers and keep some of the sums in memory.
  template <class P, size_t n_panels, size_t T>
  [[gnu::noinline]] static void project_block(const Product& p, size_t begin, size_t end,
                                              size_t first, size_t last) {
    for (size_t row = begin; row < end; row += n_panels * lanes) {
      for (size_t t = first; t < last; t += T) P::template run<n_panels, T>(p, row, t);
    }
  }

  /// Tokens [first, last), in tiles of T.
  template <class P, size_t T>
  static void project_tiles(const Product& p, size_t first, size_t last) {
    constexpr size_t n_panels = P::template panels<T>;
    const size_t rows = p.n_rows / (n_panels * lanes) * (n_panels * lanes);
    project_block<P, n_panels, T>(p, 0, rows, first, last);
    project_block<P, 1, T>(p, rows, p.n_rows, first, last);
  }

  template <class P>
  static void project_with(const Product& p) {
    // As many tokens at a time as the second-level cache holds beside the weights.
    constexpr size_t cache_bytes = 256 << 10;
    const size_t full = p.n_tokens / P::tile * P::tile;
    const size_t fits = cache_bytes / P::token_bytes(p.cols) / P::tile * P::tile;
    const size_t chunk = fits > P::tile ? fits : P::tile;
    for (size_t first = 0; first < full; first += chunk) {
      project_tiles<P, P::tile>(p, first, smaller(first + chunk, full));
    }
    if constexpr (P::tile > 1) {
      each_tile<below(P::tile)>(p.n_tokens - full, [&](auto width, size_t t) {
        project_tiles<P, width>(p, full + t, full + t + width);
      });
    }
  }

  static void project_rows(DType type, const Product& p) {
    switch (type) {
      case DType::f32:
        return project_with<FloatProduct<F32>>(p);
      case DType::f16:
        return project_with<FloatProduct<F16>>(p);
      case DType::bf16:
        return project_with<FloatProduct<BF16>>(p);
      case DType::q8_0:
        return project_with<IntProduct<Q8_0>>(p);
      case DType::q4_0:
        return project_with<IntProduct<Q4_0>>(p);
      case DType::q4_1:
        return project_with<IntProduct<Q4_1>>(p);
      case DType::q5_0:
        return project_with<IntProduct<Q5_0>>(p);
      case DType::q5_1:
        return project_with<IntProduct<Q5_1>>(p);
      case DType::q4_k:
        return project_with<IntProduct<Q4_K>>(p);
      case DType::q5_k:
        return project_with<IntProduct<Q5_K>>(p);
      case DType::q6_k:
        return project_with<IntProduct<Q6_K>>(p);
    }
  }

  static void project(const Tensor& w, size_t first_row, size_t end_row, const float* x,
                      size_t n_tokens, float* out, size_t out_stride) {
    const size_t bytes = panel_bytes(w.type, w.cols, lanes);
    project_rows(w.type,
                 {w.data + first_row / lanes * bytes, bytes, end_row - first_row, w.cols,
                  reinterpret_cast<const std::byte*>(x), n_tokens, out + first_row, out_stride});
  }

  // -- Attention ----------------------------------------------------------------------------------
  //
  // A span of keys is laid out as panels of weights, positions being the rows: scores are a product
  // like any other. Values lie position by position, padded to vectors, so that their mix is one,
  // too, with positions as columns: in q8_0 first (head_dim / 32, cache_span) f16 scales, then
  // (cache_span, head_dim) int8.

  static constexpr size_t padded(size_t head_dim) { return round_up(head_dim, 16); }

  /// Stores `n` floats as `type`, `stride` elements apart.
  static void store_plain(DType type, const float* x, size_t n, std::byte* to, size_t stride) {
    for (size_t i = 0; i < n; ++i) {
      if (type == DType::f32) {
        std::memcpy(to + i * stride * 4, x + i, 4);
      } else {
        const uint16_t half = V::to_f16(x[i]);
        std::memcpy(to + i * stride * 2, &half, 2);
      }
    }
  }

  /// d of a group of 32 as f16, like q8_0 has it.
  static void store_scale(float d, std::byte* to) {
    const uint16_t half = V::to_f16(d);
    std::memcpy(to, &half, 2);
  }

  static void write_key(DType type, const float* key, size_t head_dim, std::byte* span,
                        size_t index) {
    std::byte* panel = span + index / lanes * key_panel_bytes(type, head_dim);
    const size_t row = index % lanes;
    if (type != DType::q8_0) {
      const size_t size = type == DType::f32 ? 4 : 2;
      store_plain(type, key, head_dim, panel + row * size, lanes);
      return;
    }
    for (size_t i = 0; i < head_dim; i += group_cols, panel += Q8_0::bytes) {
      std::byte q[group_cols];
      uint32_t sums[2];
      store_scale(V::quantize_group(key + i, q, sums), panel + 2 * row);
      for (size_t step = 0; step < 8; ++step) {
        const uint32_t word = read<uint32_t>(q + 4 * step) ^ 0x80808080;  // + 128
        std::memcpy(panel + 2 * lanes + step * step_bytes + 4 * row, &word, 4);
      }
    }
  }

  static size_t key_panel_bytes(DType type, size_t head_dim) {
    if (type == DType::q8_0) return head_dim / group_cols * Q8_0::bytes;
    return head_dim * lanes * (type == DType::f32 ? 4 : 2);
  }

  static void write_value(DType type, const float* value, size_t head_dim, std::byte* span,
                          size_t index) {
    if (type != DType::q8_0) {
      const size_t size = type == DType::f32 ? 4 : 2;
      store_plain(type, value, head_dim, span + index * padded(head_dim) * size, 1);
      return;
    }
    std::byte* q = span + head_dim / group_cols * cache_span * 2 + index * head_dim;
    for (size_t i = 0; i < head_dim; i += group_cols) {
      uint32_t sums[2];
      const float d = V::quantize_group(value + i, q + i, sums);
      store_scale(d, span + (i / group_cols * cache_span + index) * 2);
    }
  }

  /// Turns the scores of one query into weights: those in [begin, end) relative to the highest, the
  /// others 0. first and last are bounds of what is looked at, multiples of lanes.
  static void weigh(float* scores, size_t first, size_t last, size_t begin, size_t end, float scale,
                    float& highest, float& total) {
    if (begin == end) {
      highest = -__builtin_inff();
      total = 0;
      for (size_t i = first; i < last; ++i) scores[i] = 0;
      return;
    }
    for (size_t i = first; i < begin; ++i) scores[i] = -__builtin_inff();
    for (size_t i = end; i < last; ++i) scores[i] = -__builtin_inff();
    const Floats scales = V::set1(scale);
    Floats max = V::set1(-__builtin_inff());
    for (size_t i = first; i < last; i += lanes) {
      const Floats scaled = V::mul(V::load(scores + i), scales);
      V::store(scores + i, scaled);
      max = V::max(max, scaled);
    }
    highest = V::max_lanes(max);
    max = V::set1(highest);
    Floats sum = V::zero();
    for (size_t i = first; i < last; i += lanes) {
      const Floats weights = exp(V::sub(V::load(scores + i), max));
      V::store(scores + i, weights);
      sum = V::add(sum, weights);
    }
    total = V::sum_lanes(sum);
  }

  /// out[t] = weights[t] values over positions [begin, end), for the elements [at, at + P * lanes).
  template <class W, size_t P, size_t T>
  [[gnu::noinline]] static void mix_vectors(const AttendSpan& s, const std::byte* values,
                                            size_t begin, size_t end, const float* weights,
                                            size_t at, float* out) {
    Floats sums[P][T];
    for (auto& of_vector : sums) {
      for (Floats& sum : of_vector) sum = V::zero();
    }
    constexpr size_t element = W::column_bytes / lanes;
    const size_t row = padded(s.head_dim) * element;
    multiply<W, P, T, 1, cache_span>(values + begin * row + at * element, W::column_bytes, row,
                                     end - begin, weights + begin, sums);
    for (size_t p = 0; p < P; ++p) {
      const size_t i = at + p * lanes;
      for (size_t t = 0; t < T; ++t) {
        float* to = out + t * s.head_dim + i;
        if (i + lanes <= s.head_dim) {
          V::store(to, sums[p][t]);
        } else if (i < s.head_dim) {
          V::store_part(to, s.head_dim - i, sums[p][t]);
        }
      }
    }
  }

  /// All elements from `at` to `end_at`.
  template <class W, size_t T>
  static void mix(const AttendSpan& s, const std::byte* values, size_t begin, size_t end,
                  const float* weights, size_t at, size_t end_at, float* out) {
    constexpr size_t at_once = vectors_for(T);
    for (; at + at_once * lanes <= end_at; at += at_once * lanes) {
      mix_vectors<W, at_once, T>(s, values, begin, end, weights, at, out);
    }
    for (; at < end_at; at += lanes) {
      mix_vectors<W, 1, T>(s, values, begin, end, weights, at, out);
    }
  }

  /// Each 32 elements with the weights times their scales; `scaled` holds those, (T, cache_span).
  template <size_t T>
  static void mix_q8_0(const AttendSpan& s, size_t begin, size_t end, const float* weights,
                       float* scaled, float* out) {
    const std::byte* q = s.values + s.head_dim / group_cols * cache_span * 2;
    for (size_t at = 0; at < s.head_dim; at += group_cols) {
      const std::byte* scales = s.values + at / group_cols * cache_span * 2;
      for (size_t p = begin / lanes * lanes; p < end; p += lanes) {
        const Floats d = V::load_f16(scales + p * 2);
        for (size_t t = 0; t < T; ++t) {
          const size_t i = t * cache_span + p;
          V::store(scaled + i, V::mul(V::load(weights + i), d));
        }
      }
      mix<S8, T>(s, q, begin, end, scaled, at, at + group_cols, out);
    }
  }

  static void attend(const AttendSpan& s, float* scratch) {
    size_t begin = cache_span;
    size_t end = 0;
    for (size_t i = 0; i < s.n_queries; ++i) {
      if (s.begin[i] == s.end[i]) continue;
      begin = smaller(begin, s.begin[i]);
      end = s.end[i] > end ? s.end[i] : end;
    }
    begin = smaller(begin, end);
    const size_t first = begin / lanes * lanes;
    const size_t last = round_up(end, lanes);

    float* scores = scratch;                               // (n_queries, cache_span)
    float* scaled = scores + attend_queries * cache_span;  // the same, for q8_0
    float* q = scaled + attend_queries * cache_span;       // prepared
    prepare(s.type, s.q, 0, s.n_queries, s.head_dim, q);
    const size_t panel = key_panel_bytes(s.type, s.head_dim);
    project_rows(s.type,
                 {s.keys + first / lanes * panel, panel, last - first, s.head_dim,
                  reinterpret_cast<const std::byte*>(q), s.n_queries, scores + first, cache_span});
    for (size_t i = 0; i < s.n_queries; ++i) {
      weigh(scores + i * cache_span, first, last, s.begin[i], s.end[i], s.scale, s.highest[i],
            s.total[i]);
    }
    each_tile<V::float_tile>(s.n_queries, [&](auto width, size_t t) {
      const float* weights = scores + t * cache_span;
      float* out = s.out + t * s.head_dim;
      if (s.type == DType::f32) {
        mix<F32, width>(s, s.values, begin, end, weights, 0, s.head_dim, out);
      } else if (s.type == DType::f16) {
        mix<F16, width>(s, s.values, begin, end, weights, 0, s.head_dim, out);
      } else {
        mix_q8_0<width>(s, begin, end, weights, scaled, out);
      }
    });
  }

  // -- Element by element -------------------------------------------------------------------------

  /// Calls f(load, store) for whole vectors of n elements, then for the rest.
  template <class F>
  [[gnu::always_inline]] static void each_vector(size_t n, F&& f) {
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) {
      f([&](const float* from) { return V::load(from + i); },
        [&](float* to, Floats x) { V::store(to + i, x); });
    }
    if (i == n) return;
    f([&](const float* from) { return V::load_part(from + i, n - i); },
      [&](float* to, Floats x) { V::store_part(to + i, n - i, x); });
  }

  /// e^x within 2 ulp: 0 below -104, infinity above 89, NaN for NaN.
  static Floats exp(Floats x) {
    // min and max return their second operand when either is NaN.
    x = V::max(V::set1(-104), V::min(V::set1(89), x));
    // e^x = 2^n e^r, |r| <= ln(2) / 2; ln(2) in two parts keeps r exact.
    const Floats n = V::round(V::mul(x, V::set1(1.44269504f)));
    Floats r = V::fma(n, V::set1(-0.693359375f), x);
    r = V::fma(n, V::set1(2.12194440e-4f), r);
    // The minimax polynomial of Cephes' expf.
    Floats y = V::set1(1.9875691500e-4f);
    for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                          5.0000001201e-1f, 1.f, 1.f}) {
      y = V::fma(y, r, V::set1(c));
    }
    return V::times_power_of_two(y, n);
  }

  static Floats sigmoid_of(Floats x) {
    const Floats one = V::set1(1);
    return V::div(one, V::add(one, exp(V::sub(V::zero(), x))));
  }

  static void swiglu(float* gate, const float* up, size_t n) {
    each_vector(n, [&](auto load, auto store) {
      const Floats g = load(gate);
      store(gate, V::mul(V::mul(g, sigmoid_of(g)), load(up)));
    });
  }

  static void sigmoid(float* x, size_t n) {
    each_vector(n, [&](auto load, auto store) { store(x, sigmoid_of(load(x))); });
  }

  static void add(float* x, const float* y, size_t n) {
    each_vector(n, [&](auto load, auto store) { store(x, V::add(load(x), load(y))); });
  }

  static void scale(float* x, float factor, size_t n) {
    const Floats factors = V::set1(factor);
    each_vector(n, [&](auto load, auto store) { store(x, V::mul(load(x), factors)); });
  }

  static void rms_norm(const float* x, const float* weight, size_t n, float eps, float* out) {
    typename V::SquareSum sum;  // in double, so that no x that is a float is too large to square
    each_vector(n, [&](auto load, auto) { sum.add(load(x)); });
    const double mean = sum.total() / static_cast<double>(n);
    const auto factor = static_cast<float>(1 / __builtin_sqrt(mean + double{eps}));
    const Floats factors = V::set1(factor);
    each_vector(n, [&](auto load, auto store) {
      store(out, V::mul(V::mul(load(x), factors), load(weight)));
    });
  }

  static void rope(float* head, const float* cos_sin, size_t n_pairs, bool half_split) {
    size_t i = 0;  // pairs done
    if (!half_split) {
      for (; i + lanes / 2 <= n_pairs; i += lanes / 2) {
        V::store(head + 2 * i, V::rotate_pairs(V::load(head + 2 * i), V::load(cos_sin + 2 * i)));
      }
    }
    float* first = head;
    float* second = half_split ? head + n_pairs : head + 1;
    const size_t step = half_split ? 1 : 2;
    for (; i < n_pairs; ++i) {
      const float a = first[i * step];
      const float b = second[i * step];
      const float cos = cos_sin[2 * i];
      const float sin = cos_sin[2 * i + 1];
      first[i * step] = a * cos - b * sin;
      second[i * step] = b * cos + a * sin;
    }
  }

 public:
  static constexpr Kernels table(const char* name) {
    return {.name = name,
            .panel_rows = lanes,
            .prepare = prepare,
            .project = project,
            .rms_norm = rms_norm,
            .rope = rope,
            .write_key = write_key,
            .write_value = write_value,
            .attend = attend,
            .swiglu = swiglu,
            .sigmoid = sigmoid,
            .add = add,
            .scale = scale};
  }
};

}  // namespace vga::cpu
