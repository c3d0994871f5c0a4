#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/checked.h"
#include "model/tensor.h"
#include "vga/candidate.h"
#include "vga/config.h"
#include "vga/token.h"

namespace vga {

/// Activations where the backend keeps them: (rows, cols) of float32. Only the backend that made a
/// Buffer looks inside.
class Buffer {
 public:
  Buffer(size_t rows, size_t cols) : rows_(rows), cols_(cols) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  virtual ~Buffer() = default;

  size_t rows() const { return rows_; }  // capacity; an op works on as many as the batch has
  size_t cols() const { return cols_; }

 private:
  size_t rows_;
  size_t cols_;
};

/// Positions of the cache that attention takes at a time. What a row gets is summed page by page,
/// in ascending order, so it does not matter who computes a page nor what else is computed with it.
constexpr size_t page_positions = 256;

/// The shape of a KV cache of layers of one kind, which see equally far. A slot holds one sequence:
/// its first n_kept positions for good, those that follow in a ring, where position p overwrites
/// position p - n_ring. Keys are stored after RoPE, values after a value-placement gate; neither is
/// ever moved or rotated again.
struct CacheShape {
  size_t kind;  // that a Batch knows it by
  size_t n_layers;
  size_t n_slots;
  size_t n_kept;  // 0 unless a window slides and spares the first tokens
  size_t n_ring;  // a multiple of page_positions
  size_t n_kv_heads;
  size_t head_dim;
  DType type;  // f32, f16 or q8_0 (head_dim a multiple of 32)

  /// What a head takes in memory; vector units like multiples of 16.
  size_t padded_dim() const { return (head_dim + 15) / 16 * 16; }
  /// Pages of one slot: those of the kept positions, then those of the ring.
  size_t kept_pages() const { return (n_kept + page_positions - 1) / page_positions; }
  size_t ring_pages() const { return n_ring / page_positions; }
  size_t n_pages() const { return kept_pages() + ring_pages(); }
  /// The page of its slot that holds a position.
  size_t page_of(int64_t position) const {
    const size_t counted = static_cast<size_t>(position) / page_positions;
    return position < static_cast<int64_t>(n_kept) ? counted
                                                   : kept_pages() + counted % ring_pages();
  }
  /// Pages of a slot that follow each other.
  struct PageRun {
    size_t first;
    size_t n;
  };
  /// Those that positions before `length` lie in, of the kept ones and of the ring.
  std::array<PageRun, 2> pages_before(int64_t length) const {
    const size_t n = (static_cast<size_t>(length) + page_positions - 1) / page_positions;
    const bool in_ring = length > static_cast<int64_t>(n_kept);
    return {
        {{0, std::min(n, kept_pages())}, {kept_pages(), in_ring ? std::min(n, ring_pages()) : 0}}};
  }
  /// Bytes of the keys, or of the values, of one head in one page.
  size_t page_bytes() const { return page_positions * row_bytes(type, padded_dim()); }
  /// nullopt if no number holds them; no Session has such a cache.
  std::optional<uint64_t> checked_bytes() const {
    return checked_product(
        std::array<uint64_t, 6>{2, n_layers, n_slots, n_kv_heads, n_pages(), page_bytes()});
  }
  size_t bytes() const { return checked_bytes().value(); }
};

class Cache {
 public:
  explicit Cache(const CacheShape& shape) : shape_(shape) {}
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;
  virtual ~Cache() = default;

  const CacheShape& shape() const { return shape_; }

 private:
  CacheShape shape_;
};

/// The shape of what delta nets remember instead of keys and values, whatever a sequence's length:
/// of each slot and layer the last inputs of the convolution, and the states of all value heads.
struct StateShape {
  size_t n_layers;
  size_t n_slots;
  DeltaNet net;

  /// Floats of one layer of one slot: (conv_size - 1, conv_cols) inputs, the oldest first, then
  /// (n_value_heads, keys of head_dim, values of head_dim).
  size_t n_inputs() const { return (net.conv_size - 1) * net.conv_cols(); }
  size_t n_floats() const { return n_inputs() + net.value_size() * net.head_dim; }
  /// nullopt if no number holds them; no Session has such states.
  std::optional<uint64_t> checked_bytes() const {
    return checked_product(std::array<uint64_t, 4>{n_layers, n_slots, n_floats(), sizeof(float)});
  }
  size_t bytes() const { return checked_bytes().value(); }
};

class State {
 public:
  explicit State(const StateShape& shape) : shape_(shape) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  virtual ~State() = default;

  const StateShape& shape() const { return shape_; }

 private:
  StateShape shape_;
};

/// What the backend needs to know of one row of a batch. Rows of a slot stand in the order of their
/// positions, which follow each other.
struct BatchRow {
  Token token;
  uint32_t slot;
  int64_t position;
};

struct Batch {
  std::span<const BatchRow> rows;
  /// (kinds, rows): in layers of a kind a row attends to its own position, to those before it from
  /// this one on, and to the kept ones before it.
  std::span<const int64_t> first_visible;
  /// Of each table (rows, rope_dim / 2, 2): cosine and sine per row and pair, computed on the host
  /// in double so that every backend rotates by the same exact angle. Empty for a table that is not
  /// there.
  std::array<std::span<const float>, max_rope_tables> angles;
  /// The same for queries that meet kept keys; empty when the cache keeps none.
  std::array<std::span<const float>, max_rope_tables> kept_angles;
  /// Indices of the rows whose logits are wanted, ascending.
  std::span<const uint32_t> wanted;

  size_t n_kinds() const { return first_visible.size() / rows.size(); }
  /// (rows)
  std::span<const int64_t> first_of(size_t kind) const {
    return first_visible.subspan(kind * rows.size(), rows.size());
  }
};

/// A linear layer and the buffer that takes its product, which is scaled and then bent by a cap c
/// to c tanh(y / c); 0 is no cap.
struct Projection {
  const Linear& linear;  // weight: (out.cols(), x.cols())
  Buffer& out;
  float scale = 1;
  float cap = 0;
};

/// How the heads of q or k are rotated.
struct RopeSpec {
  size_t head_dim;
  bool half_split;  // pairs are (i, i + n_pairs), else (2i, 2i + 1)
  size_t table;     // of the batch's angles
};

/// How scores are made: q k^T times `scale`, bent by a cap c to c tanh(score / c); 0 is no cap.
struct AttendSpec {
  float scale;
  float cap = 0;
};

/// One matrix of each expert, and the buffer that takes the products.
struct ExpertProjection {
  const Tensor& weight;  // (experts * outputs, inputs)
  Buffer& out;           // (rows, n_used * outputs)
};

/// The ops a transformer is made of; forward.cpp composes them, a backend only knows them one by
/// one. Every op works on all rows of the current batch at once. One Backend serves one session at
/// a time; weights are read in place and never changed, so any number of Backends share them.
class Backend {
 public:
  virtual ~Backend() = default;

  /// "cpu avx2, 2 threads".
  virtual std::string description() const = 0;

  virtual std::unique_ptr<Buffer> new_buffer(size_t rows, size_t cols) = 0;
  virtual std::unique_ptr<Cache> new_cache(const CacheShape& shape) = 0;
  virtual std::unique_ptr<State> new_state(const StateShape& shape) = 0;
  /// Copies to another slot, of all layers, the pages that positions before `length` lie in.
  virtual void copy_slot(Cache& cache, size_t from_slot, size_t to_slot, int64_t length) = 0;
  /// Copies a slot of all layers, from one state to another or within one.
  virtual void copy_state(const State& from, size_t from_slot, State& to, size_t to_slot) = 0;

  /// Starts a batch; `batch` stays valid until the next begin().
  virtual void begin(const Batch& batch) = 0;

  /// x[r] = table[token of r] * scale, plus positions[position of r] if those are not null.
  virtual void embed(const Tensor& table, float scale, const Tensor* positions, Buffer& x) = 0;
  /// Normalises each group of as many columns of x as the weight has, row by row; `out` may be x.
  /// rms: group / sqrt(mean(group^2) + eps) * weight. layer: (group - mean) / sqrt(variance + eps)
  /// * weight + bias.
  virtual void norm(const Buffer& x, const Norm& weight, NormKind kind, float eps, Buffer& out) = 0;
  /// out = x W^T + bias, plus x A^T B^T where adapters change the layer, for each projection.
  virtual void project(const Buffer& x, std::span<const Projection> projections) = 0;
  /// Rotates the first 2 * n_pairs elements of every head of x (rows, n_heads * head_dim) by the
  /// batch's angles.
  virtual void rope(Buffer& x, const RopeSpec& spec) = 0;
  /// out = q rotated like rope() does, but by the angles for kept keys.
  virtual void rope_kept(const Buffer& q, const RopeSpec& spec, Buffer& out) = 0;
  /// Writes each row's keys and values (rows, n_kv_heads * head_dim) to where its position lies;
  /// values times the gate, if that is not null: (rows, n_kv_heads), or a column for each element.
  /// `layer` counts those of the cache, here and below.
  virtual void write_cache(Cache& cache, size_t layer, const Buffer& k, const Buffer& v,
                           const Buffer* gate) = 0;
  /// out = softmax(scores) v over the positions each row sees; q and out are (rows, n_heads *
  /// head_dim), query head h reads KV head h / (n_heads / n_kv_heads). Kept keys are met by q_kept,
  /// which is null when the cache keeps none. What comes out is multiplied by the gate, if that is
  /// not null: (rows, n_heads), or a column for each element.
  virtual void attend(const Buffer& q, const Buffer* q_kept, const Cache& cache, size_t layer,
                      const AttendSpec& spec, const Buffer* gate, Buffer& out) = 0;
  /// x = activation(x), times `up` if that is not null.
  virtual void activate(Buffer& x, const Buffer* up, Activation kind) = 0;
  /// x += y * factor.
  virtual void add(Buffer& x, const Buffer& y, float factor) = 0;
  /// x = silu of the causal convolution of each column of x with its taps, (columns, conv_size): a
  /// row meets its own input by the last tap and those of the rows before it in its sequence by the
  /// others; they are zeros before position 0. `layer` counts those of the state, here and below.
  virtual void convolve(Buffer& x, const Tensor& taps, State& state, size_t layer) = 0;
  /// x = exp(scale * log(1 + exp(x + bias))), with a scale and a bias for each column: how much of
  /// its state a delta net's head keeps.
  virtual void decay(Buffer& x, const Tensor& bias, const Tensor& scale) = 0;
  /// The delta rule; see DeltaNet. qkv is (rows, conv_cols), decay and strength are (rows,
  /// n_value_heads), out is (rows, value_size). Queries and keys are brought to length 1 first,
  /// x / sqrt(|x|^2 + 1e-6), and queries divided by sqrt(head_dim); qkv may be used up for it.
  /// States are zeros before position 0.
  virtual void delta_rule(Buffer& qkv, const Buffer& decay, const Buffer& strength, State& state,
                          size_t layer, Buffer& out) = 0;
  /// Chooses experts by the router's logits, (rows, n): `out` is (rows, 2 * n_used), the numbers of
  /// those chosen, ascending, and then what each weighs; see Experts. `choice_bias` may be empty.
  virtual void route(const Buffer& logits, const Tensor& choice_bias, const Experts& experts,
                     Buffer& out) = 0;
  /// Of each row and each of its experts in `routed` the product with its part of x, which is
  /// (rows, inputs) or (rows, n_used * inputs).
  virtual void project_experts(const Buffer& x, const Buffer& routed,
                               std::span<const ExpertProjection> projections) = 0;
  /// out = the sum of what a row's experts gave, y of (rows, n_used * out.cols()), as they weigh.
  virtual void mix_experts(const Buffer& y, const Buffer& routed, Buffer& out) = 0;
  /// Multiplies each row of x by its factor, (rows, 1).
  virtual void scale_rows(Buffer& x, const Buffer& factors) = 0;
  /// Keeps only the wanted rows of x, in order, in `out`; ops that follow work on those alone.
  virtual void keep_wanted(const Buffer& x, Buffer& out) = 0;
  /// The same for rows [first, first + n) of x.
  virtual void keep_rows(const Buffer& x, size_t first, size_t n, Buffer& out) = 0;
  /// Returns once everything is done.
  virtual void wait_for_all() {}
  /// Waits for everything and copies the current rows of x to host memory.
  virtual void read(const Buffer& x, std::span<float> out) = 0;
  /// Waits for everything and finds the k largest elements of each current row of x, in the order
  /// of candidate.h, where columns are tokens: `out` is (rows, k), k at most x.cols().
  virtual void likeliest(const Buffer& x, size_t k, std::span<Candidate> out) = 0;
  /// Copies host memory to the current rows of x: for the stage before on another backend, and for
  /// Observers that change what they see.
  virtual void write(Buffer& x, std::span<const float> in) = 0;
  /// Seconds so far in which a device was at work and was waited for in the end; 0 where the host
  /// computes.
  virtual double wait_seconds() const { return 0; }
};

}  // namespace vga
