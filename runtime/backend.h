#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "tensor.h"
#include "token.h"

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

/// The shape of a KV cache. A lane holds one sequence; slots are where its tokens' keys and values
/// lie. Keys are stored after RoPE, values after a value-placement gate.
struct CacheShape {
  size_t n_layers;
  size_t n_lanes;
  size_t n_slots;
  size_t n_kv_heads;
  size_t head_dim;
  DType type;  // f32 or f16

  size_t elements() const { return 2 * n_layers * n_lanes * n_slots * n_kv_heads * head_dim; }
  size_t bytes() const { return row_bytes(type, elements()); }
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

/// What the backend needs to know of one row of a batch.
struct BatchRow {
  Token token;
  uint32_t lane;
  uint32_t slot;       // where its key and value go
  uint32_t n_visible;  // it attends to slots [0, n_visible) of its lane, its own among them
};

struct Batch {
  std::span<const BatchRow> rows;
  /// (rows, rope_dim / 2, 2): cosine and sine per row and pair, computed on the host in double so
  /// that every backend rotates by the same exact angle.
  std::span<const float> angles;
  /// Indices of the rows whose logits are wanted, ascending.
  std::span<const uint32_t> wanted;
};

/// A matrix to multiply by and the buffer that takes the product.
struct Projection {
  const Tensor& weight;  // (out->cols(), x.cols())
  Buffer& out;
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

  /// Starts a batch; `batch` stays valid until the next begin().
  virtual void begin(const Batch& batch) = 0;

  /// x[r] = table[token of r].
  virtual void embed(const Tensor& table, Buffer& x) = 0;
  /// out = x / sqrt(mean(x^2) + eps) * weight, row by row.
  virtual void rms_norm(const Buffer& x, const Tensor& weight, float eps, Buffer& out) = 0;
  /// out = x W^T for each projection.
  virtual void project(const Buffer& x, std::span<const Projection> projections) = 0;
  /// Rotates the first 2 * n_pairs elements of every head of x (rows, n_heads * head_dim) by the
  /// batch's angles. Pairs are (i, i + n_pairs) when half_split, else (2i, 2i + 1).
  virtual void rope(Buffer& x, size_t head_dim, bool half_split) = 0;
  /// gate = sigmoid(gate + bias); no bias when it is empty.
  virtual void sigmoid(Buffer& gate, const Tensor& bias) = 0;
  /// Multiplies each head of x (rows, n_heads * head_dim) by its gate: gate is (rows, n_heads), or
  /// element-wise (rows, n_heads * head_dim).
  virtual void apply_gate(Buffer& x, const Buffer& gate, size_t head_dim) = 0;
  /// Writes each row's keys and values (rows, n_kv_heads * head_dim) to its slot.
  virtual void write_cache(Cache& cache, size_t layer, const Buffer& k, const Buffer& v) = 0;
  /// out = softmax(q k^T / sqrt(head_dim)) v over the slots each row sees; q and out are
  /// (rows, n_heads * head_dim), query head h reads KV head h / (n_heads / n_kv_heads).
  virtual void attend(const Buffer& q, const Cache& cache, size_t layer, Buffer& out) = 0;
  /// gate = silu(gate) * up.
  virtual void swiglu(Buffer& gate, const Buffer& up) = 0;
  /// x += y.
  virtual void add(Buffer& x, const Buffer& y) = 0;
  /// Keeps only the wanted rows of x, in order, in `out`; ops that follow work on those alone.
  virtual void keep_wanted(const Buffer& x, Buffer& out) = 0;
  /// Waits for everything and copies the current rows of x to host memory.
  virtual void read(const Buffer& x, std::span<float> out) = 0;
};

}  // namespace vga
