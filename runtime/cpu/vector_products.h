#pragma once

#include <cassert>

#include "cpu/kernels.h"
#include "cpu/panels.h"
#include "cpu/vector_weights.h"

namespace vga::cpu {

/// Activations, how they are prepared, and the products of weights and activations, over vectors V.
template <class V>
struct VectorProducts {
  using Weights = VectorWeights<V>;
  using Floats = typename V::Floats;
  using Ints = typename V::Ints;
  static constexpr size_t lanes = V::lanes;

  // -- Activations --------------------------------------------------------------------------------
  //
  // Tokens are prepared in tiles, as wide as a product takes them: full tiles first, then what is
  // left in one, or in two. Where a tile begins depends on its group (prepare_group) alone.
  //
  //   float tile of T tokens   (cols, T) f32
  //   int tile of T tokens     per group of 32 columns: (x_parts, T, 32) bytes, then (T) each of
  //                            f32 d, f32 d * sum q, and -sum q as dot() takes it: of the group, of
  //                            its two halves

  static constexpr size_t int_tile = 4;
  static_assert(prepare_group % V::float_tile == 0 && prepare_group % int_tile == 0);
  static constexpr size_t int_token_bytes(size_t parts) {  // per group
    return parts * group_cols + 5 * 4;
  }

  /// How many of n tokens are in full tiles of T. A tile of one or two loads weights as often as a
  /// full one, so what is left is halved together with the last full tile, if they are of one
  /// group.
  template <size_t T>
  static constexpr size_t in_full_tiles(size_t n) {
    const size_t rest = n % T;
    return n - rest - (rest > 0 && n % prepare_group > T ? T : 0);
  }

  /// Calls f(std::integral_constant n), 0 < n <= T.
  template <size_t T, class F>
  [[gnu::always_inline]] static void with_width(size_t n, F&& f) {
    if constexpr (T > 1) {
      if (n < T) return with_width<T - 1>(n, f);
    }
    f(std::integral_constant<size_t, T>());
  }

  /// Calls tile(std::integral_constant width, first token) for the tiles behind the full ones.
  template <size_t T, class F>
  [[gnu::always_inline]] static void each_last_tile(size_t n, F&& tile) {
    size_t t = in_full_tiles<T>(n);
    for (size_t n_tiles = (n - t + T - 1) / T; n_tiles > 0; --n_tiles) {
      with_width<T>((n - t + n_tiles - 1) / n_tiles, [&](auto width) {
        tile(width, t);
        t += width;
      });
    }
  }

  /// The same for all tiles.
  template <size_t T, class F>
  [[gnu::always_inline]] static void each_tile(size_t n, F&& tile) {
    for (size_t t = 0; t < in_full_tiles<T>(n); t += T) {
      tile(std::integral_constant<size_t, T>(), t);
    }
    each_last_tile<T>(n, tile);
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
  /// this far ahead. Plain numbers go to the second-level cache, as the first one can wait for few
  /// lines.
  static constexpr size_t prefetch_bytes = 8192;

  /// Vectors of weights to multiply by T tokens at once: what registers hold sums of. They are of
  /// one panel, so their number divides that of a panel.
  static constexpr size_t vectors_for(size_t T) {
    size_t n = plain_panel_vectors;
    while (n * T > V::float_sums) n /= 2;
    return n;
  }

  /// sums[p][t] += w_p(c) * x[c * x_column + t * x_token] over n columns, for P vectors of weights
  /// that lie one after the other.
  template <class W, size_t P, size_t T, size_t x_column, size_t x_token>
  [[gnu::always_inline]] static void multiply(const std::byte* w, size_t column_bytes, size_t n,
                                              const float* x, Floats (&sums)[P][T]) {
    const auto weights = [&](size_t p) {
      const std::byte* from = w + p * W::column_bytes;
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
    const std::byte* panels;
    size_t panel_bytes;
    size_t panel_rows;
    size_t first_row;  // of those that are computed, a multiple of lanes
    size_t end_row;
    size_t cols;
    const std::byte* x;  // prepared
    size_t n_tokens;
    float* out;  // (n_tokens, end_row - first_row), out_stride apart
    size_t out_stride;
    bool adds = false;
  };

  /// Stores a vector of results, less what lies behind the last row.
  static void store_rows(const Product& p, size_t t, size_t row, Floats result) {
    float* to = p.out + t * p.out_stride + row - p.first_row;
    if (row + lanes <= p.end_row) {
      V::store(to, p.adds ? V::add(V::load(to), result) : result);
    } else if (row < p.end_row) {
      const size_t n = p.end_row - row;
      V::store_part(to, n, p.adds ? V::add(V::load_part(to, n), result) : result);
    }
  }

  template <class W>
  struct FloatProduct {
    static constexpr size_t tile = V::float_tile;
    /// Vectors of rows at once, which are of one panel.
    static constexpr size_t vectors(size_t T) { return vectors_for(T); }
    static constexpr size_t aligned_to(size_t T) { return vectors(T) * lanes; }

    static size_t token_bytes(size_t cols) { return cols * sizeof(float); }

    template <size_t P, size_t T>
    [[gnu::always_inline]] static void run(const Product& p, size_t row, size_t t, bool) {
      Floats sums[P][T];
      for (auto& of_panel : sums) {
        for (Floats& sum : of_panel) sum = V::zero();
      }
      const std::byte* panel = p.panels + row / p.panel_rows * p.panel_bytes;
      multiply<W, P, T, T, 1>(panel + row % p.panel_rows / lanes * W::column_bytes,
                              p.panel_rows / lanes * W::column_bytes, p.cols,
                              reinterpret_cast<const float*>(p.x + t * token_bytes(p.cols)), sums);
      for (size_t i = 0; i < P; ++i) {
        for (size_t j = 0; j < T; ++j) store_rows(p, t + j, row + i * lanes, sums[i][j]);
      }
    }
  };

  template <class Group>
  struct IntProduct {
    static constexpr size_t tile = int_tile;
    /// Two panels for several tokens, as what is loaded of those then serves twice. One token has
    /// to wait for memory, which is faster in one stream.
    static constexpr size_t vectors(size_t T) { return T > 2 ? 2 : 1; }
    static constexpr size_t aligned_to(size_t) { return lanes; }
    static constexpr size_t x_parts = V::x_parts(Group::bits);

    static size_t token_bytes(size_t cols) { return int_bytes(cols, x_parts); }

    [[gnu::always_inline]] static void ask_ahead(const Group& group, size_t bytes) {
      for (size_t i = 0; i < Group::bytes; i += 64) __builtin_prefetch(group.at + bytes + i);
    }

    /// `is_first`: of the tiles of tokens that these rows meet.
    template <size_t P, size_t T>
    [[gnu::always_inline]] static void run(const Product& p, size_t row, size_t t, bool is_first) {
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
        if constexpr (T == 1 && (Group::bits < 8 || x_parts > 1))
          ask_ahead(group(0), prefetch_bytes);
        // The first of many tokens bring the weights that the others find in the cache.
        if constexpr (T > 2) {
          for (size_t i = 0; is_first && i < P; ++i) ask_ahead(group(i), prefetch_bytes / 4);
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
  template <class P, size_t n_vectors, size_t T>
  [[gnu::noinline]] static void project_block(const Product& p, size_t begin, size_t end,
                                              size_t first, size_t last) {
    for (size_t row = begin; row < end; row += n_vectors * lanes) {
      for (size_t t = first; t < last; t += T) P::template run<n_vectors, T>(p, row, t, t == first);
    }
  }

  /// Tokens [first, last), in tiles of T.
  template <class P, size_t T>
  static void project_tiles(const Product& p, size_t first, size_t last) {
    constexpr size_t n_vectors = P::vectors(T);
    constexpr size_t at_once = n_vectors * lanes;
    const size_t begin = smaller(round_up(p.first_row, P::aligned_to(T)), p.end_row);
    const size_t end = begin + (p.end_row - begin) / at_once * at_once;
    project_block<P, 1, T>(p, p.first_row, begin, first, last);
    project_block<P, n_vectors, T>(p, begin, end, first, last);
    project_block<P, 1, T>(p, end, p.end_row, first, last);
  }

  template <class P>
  static void project_with(const Product& p) {
    // As many tokens at a time as the second-level cache holds beside the weights.
    constexpr size_t cache_bytes = 256 << 10;
    const size_t full = in_full_tiles<P::tile>(p.n_tokens);
    const size_t fits = cache_bytes / P::token_bytes(p.cols) / P::tile * P::tile;
    const size_t chunk = fits > P::tile ? fits : P::tile;
    for (size_t first = 0; first < full; first += chunk) {
      project_tiles<P, P::tile>(p, first, smaller(first + chunk, full));
    }
    each_last_tile<P::tile>(
        p.n_tokens, [&](auto width, size_t t) { project_tiles<P, width>(p, t, t + width); });
  }

  static void project_rows(DType type, const Product& p) {
    switch (type) {
      case DType::f32:
        return project_with<FloatProduct<typename Weights::F32>>(p);
      case DType::f16:
        return project_with<FloatProduct<typename Weights::F16>>(p);
      case DType::bf16:
        return project_with<FloatProduct<typename Weights::BF16>>(p);
      case DType::q8_0:
        return project_with<IntProduct<typename Weights::Q8_0>>(p);
      case DType::q4_0:
        return project_with<IntProduct<typename Weights::Q4_0>>(p);
      case DType::q4_1:
        return project_with<IntProduct<typename Weights::Q4_1>>(p);
      case DType::q5_0:
        return project_with<IntProduct<typename Weights::Q5_0>>(p);
      case DType::q5_1:
        return project_with<IntProduct<typename Weights::Q5_1>>(p);
      case DType::q4_k:
        return project_with<IntProduct<typename Weights::Q4_K>>(p);
      case DType::q5_k:
        return project_with<IntProduct<typename Weights::Q5_K>>(p);
      case DType::q6_k:
        return project_with<IntProduct<typename Weights::Q6_K>>(p);
    }
  }

  static void project(const Tensor& w, size_t first_row, size_t end_row, const float* x,
                      size_t n_tokens, float* out, size_t out_stride, bool adds) {
    assert(w.layout == Layout::panels);
    project_rows(w.type,
                 {w.data, panel_bytes(w, lanes), panel_rows(w, lanes), first_row, end_row, w.cols,
                  reinterpret_cast<const std::byte*>(x), n_tokens, out, out_stride, adds});
  }
};

}  // namespace vga::cpu
