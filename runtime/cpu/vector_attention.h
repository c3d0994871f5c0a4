#pragma once

#include "cpu/vector_elements.h"
#include "cpu/vector_products.h"

namespace vga::cpu {

/// A page of the cache, and attention over it, over vectors V.
///
/// A page of keys is laid out as panels of weights, positions being the rows: scores are a product
/// like any other. Values lie position by position, padded to vectors, so that their mix is one,
/// too, with positions as columns: in q8_0 first (head_dim / 32, page_positions) f16 scales, then
/// (page_positions, head_dim) int8.
template <class V>
class VectorAttention {
  using Weights = VectorWeights<V>;
  using Products = VectorProducts<V>;
  using Floats = typename V::Floats;
  static constexpr size_t lanes = V::lanes;

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

  static constexpr size_t plain_rows = Weights::plain_rows;
  static_assert(page_positions % plain_rows == 0);

  static size_t key_panel_rows(DType type) { return type == DType::q8_0 ? lanes : plain_rows; }
  static size_t key_panel_bytes(DType type, size_t head_dim) {
    if (type == DType::q8_0) return head_dim / group_cols * Weights::Q8_0::bytes;
    return head_dim * plain_rows * block_bytes(type);
  }

  /// Turns the scores of one query into weights: those in [begin, end) relative to the highest, the
  /// others 0. first and last are bounds of what is looked at, multiples of lanes.
  static void weigh(float* scores, size_t first, size_t last, size_t begin, size_t end, float scale,
                    float cap, float& highest, float& total) {
    if (begin == end) {
      highest = -__builtin_inff();
      total = 0;
      for (size_t i = first; i < last; ++i) scores[i] = 0;
      return;
    }
    if (cap > 0) {
      for (size_t i = first; i < last; i += lanes) {
        const Floats scaled = V::mul(V::load(scores + i), V::set1(scale));
        V::store(scores + i, VectorElements<V>::capped(scaled, cap));
      }
      scale = 1;
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
      const Floats weights = VectorElements<V>::exp(V::sub(V::load(scores + i), max));
      V::store(scores + i, weights);
      sum = V::add(sum, weights);
    }
    total = V::sum_lanes(sum);
  }

  /// out[t] = weights[t] values over positions [begin, end), for the elements [at, at + P * lanes).
  template <class W, size_t P, size_t T>
  [[gnu::noinline]] static void mix_vectors(const AttendPage& s, const std::byte* values,
                                            size_t begin, size_t end, const float* weights,
                                            size_t at, float* out) {
    Floats sums[P][T];
    for (auto& of_vector : sums) {
      for (Floats& sum : of_vector) sum = V::zero();
    }
    constexpr size_t element = W::column_bytes / lanes;
    const size_t row = padded(s.head_dim) * element;
    Products::template multiply<W, P, T, 1, page_positions>(
        values + begin * row + at * element, row, end - begin, weights + begin, sums);
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
  static void mix(const AttendPage& s, const std::byte* values, size_t begin, size_t end,
                  const float* weights, size_t at, size_t end_at, float* out) {
    constexpr size_t at_once = Products::vectors_for(T);
    for (; at + at_once * lanes <= end_at; at += at_once * lanes) {
      mix_vectors<W, at_once, T>(s, values, begin, end, weights, at, out);
    }
    for (; at < end_at; at += lanes) {
      mix_vectors<W, 1, T>(s, values, begin, end, weights, at, out);
    }
  }

  /// Each 32 elements with the weights times their scales; `scaled` holds those, (T,
  /// page_positions).
  template <size_t T>
  static void mix_q8_0(const AttendPage& s, size_t begin, size_t end, const float* weights,
                       float* scaled, float* out) {
    const std::byte* q = s.values + s.head_dim / group_cols * page_positions * 2;
    for (size_t at = 0; at < s.head_dim; at += group_cols) {
      const std::byte* scales = s.values + at / group_cols * page_positions * 2;
      for (size_t p = begin / lanes * lanes; p < end; p += lanes) {
        const Floats d = V::load_f16(scales + p * 2);
        for (size_t t = 0; t < T; ++t) {
          const size_t i = t * page_positions + p;
          V::store(scaled + i, V::mul(V::load(weights + i), d));
        }
      }
      mix<typename Weights::S8, T>(s, q, begin, end, scaled, at, at + group_cols, out);
    }
  }

 public:
  static void write_key(DType type, const float* key, size_t head_dim, std::byte* page,
                        size_t index) {
    const size_t panel_rows = key_panel_rows(type);
    std::byte* panel = page + index / panel_rows * key_panel_bytes(type, head_dim);
    const size_t row = index % panel_rows;
    if (type != DType::q8_0) {
      store_plain(type, key, head_dim, panel + row * block_bytes(type), plain_rows);
      return;
    }
    for (size_t i = 0; i < head_dim; i += group_cols, panel += Weights::Q8_0::bytes) {
      std::byte q[group_cols];
      uint32_t sums[2];
      store_scale(V::quantize_group(key + i, q, sums), panel + 2 * row);
      for (size_t step = 0; step < 8; ++step) {
        const uint32_t word = read<uint32_t>(q + 4 * step) ^ 0x80808080;  // + 128
        std::memcpy(panel + 2 * lanes + step * Weights::step_bytes + 4 * row, &word, 4);
      }
    }
  }

  static void write_value(DType type, const float* value, size_t head_dim, std::byte* page,
                          size_t index) {
    if (type != DType::q8_0) {
      store_plain(type, value, head_dim, page + index * padded(head_dim) * block_bytes(type), 1);
      return;
    }
    std::byte* q = page + head_dim / group_cols * page_positions * 2 + index * head_dim;
    for (size_t i = 0; i < head_dim; i += group_cols) {
      uint32_t sums[2];
      const float d = V::quantize_group(value + i, q + i, sums);
      store_scale(d, page + (i / group_cols * page_positions + index) * 2);
    }
  }

  static void attend(const AttendPage& s, float* scratch) {
    size_t begin = page_positions;
    size_t end = 0;
    for (size_t i = 0; i < s.n_queries; ++i) {
      if (s.begin[i] == s.end[i]) continue;
      begin = smaller(begin, s.begin[i]);
      end = s.end[i] > end ? s.end[i] : end;
    }
    begin = smaller(begin, end);
    const size_t first = begin / lanes * lanes;
    const size_t last = round_up(end, lanes);

    float* scores = scratch;                                   // (n_queries, page_positions)
    float* scaled = scores + attend_queries * page_positions;  // the same, for q8_0
    float* q = scaled + attend_queries * page_positions;       // prepared
    Products::prepare(s.type, s.q, 0, s.n_queries, s.head_dim, q);
    Products::project_rows(
        s.type, {s.keys, key_panel_bytes(s.type, s.head_dim), key_panel_rows(s.type), first, last,
                 s.head_dim, reinterpret_cast<const std::byte*>(q), s.n_queries, scores + first,
                 page_positions});
    for (size_t i = 0; i < s.n_queries; ++i) {
      weigh(scores + i * page_positions, first, last, s.begin[i], s.end[i], s.scale, s.cap,
            s.highest[i], s.total[i]);
    }
    Products::template each_tile<V::float_tile>(s.n_queries, [&](auto width, size_t t) {
      const float* weights = scores + t * page_positions;
      float* out = s.out + t * s.head_dim;
      if (s.type == DType::f32) {
        mix<typename Weights::F32, width>(s, s.values, begin, end, weights, 0, s.head_dim, out);
      } else if (s.type == DType::f16) {
        mix<typename Weights::F16, width>(s, s.values, begin, end, weights, 0, s.head_dim, out);
      } else {
        mix_q8_0<width>(s, begin, end, weights, scaled, out);
      }
    });
  }
};

}  // namespace vga::cpu
