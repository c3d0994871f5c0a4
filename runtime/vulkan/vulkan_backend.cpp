#include "vulkan/vulkan_backend.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "vga/error.h"
#include "vulkan/batch.h"
#include "vulkan/commands.h"
#include "vulkan/device_model.h"

namespace vga::vulkan {
namespace {

constexpr uint32_t max_groups = 65535;    // along one axis
constexpr uint32_t matvec_rows = 8;       // up to so many rows of x, weights are read once for all
constexpr uint32_t tile = 64;             // outputs, and rows, of matmul's tiles
constexpr size_t most_queries = 8;        // of attention that a workgroup takes
constexpr size_t most_elements = 512;     // of a head: four for each thread of attend.comp
constexpr size_t wanted_groups = 128;     // workgroups that keep a device busy
constexpr size_t candidate_chunk = 1024;  // columns that a workgroup of likeliest.comp takes
constexpr size_t most_candidates = 256;   // that it finds
constexpr uint64_t shared_bytes = 16384 - 1024;  // that every device has, less reduce.glsl's
static_assert(most_elements == 4 * Limits::workgroup_size);

uint32_t u32(size_t n) {
  return static_cast<uint32_t>(n);
}
/// Workgroups along x, then y.
std::array<uint32_t, 3> grid(size_t groups, size_t splits = 1) {
  const size_t y = (groups - 1) / max_groups + 1;
  return {u32((groups - 1) / y + 1), u32(y), u32(splits)};
}

/// What likeliest.comp leaves.
struct Found {
  uint32_t key;
  uint32_t column;
};

size_t n_chunks(size_t cols) {
  return (cols - 1) / candidate_chunk + 1;
}

/// The float that the shader made a key of.
float float_of(uint32_t key) {
  if (key == ~0u) return std::numeric_limits<float>::quiet_NaN();
  return std::bit_cast<float>(key >> 31 != 0 ? key & 0x7FFFFFFF : ~key);
}

/// Elements of a piece of the cache, which is 16 bytes.
size_t piece_elements(DType cache_type) {
  return cache_type == DType::f32 ? 4 : cache_type == DType::f16 ? 8 : 16;
}

/// For ops that have no shader yet.
void refuse(bool wanted, const char* what) {
  if (wanted)
    throw Error("Vulkan", std::string(what) + " have no shader yet; --device cpu has all");
}

class VulkanBuffer : public Buffer {
 public:
  VulkanBuffer(Commands& commands, size_t rows, size_t cols)
      : Buffer(rows, cols),
        commands_(commands),
        memory_(commands.device, rows * padded_cols(cols) * sizeof(float), Memory::Kind::device,
                "activations") {}
  ~VulkanBuffer() override { finish(commands_); }

  const Memory& memory() const { return memory_; }
  /// n rows.
  Range rows_from(size_t first, size_t n) const {
    const uint64_t stride = padded_cols(cols()) * sizeof(float);
    return {memory_.buffer, first * stride, n * stride};
  }

 private:
  Commands& commands_;  // that use it
  Memory memory_;
};

const VulkanBuffer& on_device(const Buffer& buffer) {
  return static_cast<const VulkanBuffer&>(buffer);
}

/// Keys and values of each layer, head by head, as shaders/cache.glsl says; in as few pieces of
/// memory as the device allows.
class VulkanCache : public Cache {
 public:
  VulkanCache(Commands& commands, const CacheShape& shape) : Cache(shape), commands_(commands) {
    const Limits& limits = commands.device.limits;
    heads_at_once_ = limits.storage_range / head_bytes();
    if (heads_at_once_ == 0) {
      throw Error("cache", "one head takes " + std::to_string(head_bytes()) +
                               " bytes, the device binds " + std::to_string(limits.storage_range) +
                               "; wanted a shorter context");
    }
    heads_of_memory_ = limits.allocation / head_bytes();
    const size_t n_heads = 2 * shape.n_layers * shape.n_kv_heads;
    for (size_t head = 0; head < n_heads; head += heads_of_memory_) {
      const size_t n = std::min(heads_of_memory_, n_heads - head);
      memory_.emplace_back(commands.device, n * head_bytes(), Memory::Kind::device, "cache");
    }
  }

  ~VulkanCache() override { finish(commands_); }

  enum Side : size_t { keys, values };
  /// n KV heads from `first` on, as many as heads_from() allows. Where they begin is a multiple of
  /// 512 bytes, and no device asks for more than 256.
  Range heads(size_t layer, Side side, size_t first, size_t n) const {
    const size_t head = index(layer, side, first);
    return {memory_[head / heads_of_memory_].buffer, head % heads_of_memory_ * head_bytes(),
            n * head_bytes()};
  }
  /// How many KV heads from `first` on can be bound at once, with their keys and with their values.
  size_t heads_from(size_t layer, size_t first) const {
    size_t n = std::min(heads_at_once_, shape().n_kv_heads - first);
    for (const Side side : {keys, values}) {
      n = std::min(n, heads_of_memory_ - index(layer, side, first) % heads_of_memory_);
    }
    return n;
  }

 private:
  uint64_t head_bytes() const { return shape().n_slots * shape().n_pages() * shape().page_bytes(); }
  size_t index(size_t layer, Side side, size_t head) const {
    return (2 * layer + side) * shape().n_kv_heads + head;
  }

  Commands& commands_;          // that use it
  std::vector<Memory> memory_;  // (n_layers, 2, n_kv_heads) heads
  size_t heads_at_once_;        // that can be bound
  size_t heads_of_memory_;
};

class VulkanBackend : public Backend {
 public:
  explicit VulkanBackend(Device& device) : device_(device), commands_(device) {}

  std::string description() const override { return "vulkan " + device_.info.name; }

  std::unique_ptr<Buffer> new_buffer(size_t rows, size_t cols) override {
    auto buffer = std::make_unique<VulkanBuffer>(commands_, rows, cols);
    clear(commands_, whole(buffer->memory()));  // what pads the rows stays zero
    return buffer;
  }

  std::unique_ptr<Cache> new_cache(const CacheShape& shape) override {
    refuse(shape.kind > 0, "layers that see differently far");
    if (shape.head_dim > most_elements) {
      throw Error("attention.key_length", "a Vulkan device takes heads of up to " +
                                              std::to_string(most_elements) + " elements, found " +
                                              std::to_string(shape.head_dim));
    }
    auto cache = std::make_unique<VulkanCache>(commands_, shape);
    shape_ = shape;
    const uint64_t query_bytes =
        sizeof(float) * (shape.padded_dim() + std::max(page_positions, shape.padded_dim()) + 3);
    n_queries_ = std::min<size_t>(most_queries, shared_bytes / query_bytes);
    partials_ =
        Memory(device_, 2 * wanted_groups * n_queries_ * (shape.padded_dim() + 4) * sizeof(float),
               Memory::Kind::device, "partial sums of attention");
    return cache;
  }

  void begin(const Batch& batch) override {
    n_rows_ = batch.rows.size();
    n_wanted_ = batch.wanted.size();
    n_pairs_ = batch.angles[0].size() / n_rows_ / 2;
    first_visible_.assign(batch.first_visible.begin(), batch.first_visible.end());
    staged_[turn_].last_use = submit(commands_);
    turn_ = 1 - turn_;
    Staged& s = staged_[turn_];
    wait(commands_, s.last_use);
    // What a workgroup takes is known once the number of query heads is: attend() makes tiles.
    rows_of_batch_.assign(batch.rows.begin(), batch.rows.end());
    tile_rows_ = 0;
    plan_rows(rows_of_batch_, shape_, gpu_rows_);
    const uint64_t alignment = device_.limits.storage_alignment;
    uint64_t bytes = 0;
    const auto place = [&](uint64_t size) {
      const uint64_t at = align_up(bytes, alignment);
      bytes = at + std::max<uint64_t>(size, 4);
      return Range{VK_NULL_HANDLE, at, std::max<uint64_t>(size, 4)};
    };
    s.rows = place(n_rows_ * sizeof(GpuRow));
    s.views = place(n_rows_ * sizeof(GpuView));
    s.tiles = place(n_rows_ * sizeof(GpuTile));
    s.angles = place(batch.angles[0].size_bytes());
    s.kept_angles = place(batch.kept_angles[0].size_bytes());
    s.wanted = place(batch.wanted.size_bytes());
    if (s.memory.bytes < bytes) s.memory = Memory(device_, bytes, Memory::Kind::shared, "batch");
    for (Range* range : {&s.rows, &s.views, &s.tiles, &s.angles, &s.kept_angles, &s.wanted}) {
      range->buffer = s.memory.buffer;
    }
    fill(s.angles, std::as_bytes(batch.angles[0]));
    fill(s.kept_angles, std::as_bytes(batch.kept_angles[0]));
    fill(s.wanted, std::as_bytes(batch.wanted));
    fill(s.rows, std::as_bytes(std::span(gpu_rows_)));
  }

  void embed(const Tensor& table, float scale, const Tensor* positions, Buffer& x) override {
    refuse(scale != 1, "scaled embeddings");
    refuse(positions != nullptr, "learned positions");
    struct Push {
      uint32_t base, row_halves, cols, first_row, part_rows, n_rows;
    };
    const auto& p = pipeline(device_, {"embed", table.type}, 3);
    for (const Weight::Slice& slice : table.on_device->slices) {
      dispatch(commands_, p, {slice.range, staged_[turn_].rows, current(x)},
               Push{slice.base, row_halves(table), u32(table.cols), slice.first_row, slice.n_rows,
                    u32(n_rows_)},
               threads(n_rows_ * ((table.cols + 7) / 8)));
    }
  }

  void norm(const Buffer& x, const Norm& norm, NormKind kind, float eps, Buffer& out) override {
    refuse(kind != NormKind::rms, "layer norms");
    refuse(norm.weight.cols != x.cols(), "norms of groups");
    struct Push {
      uint32_t cols, n_rows, weight_base;
      float eps;
    };
    const Weight::Slice& w = vector(norm.weight);
    dispatch(commands_, pipeline(device_, {"rms_norm"}, 3), {current(x), w.range, current(out)},
             Push{u32(x.cols()), u32(n_rows_), w.base / 2, eps}, grid(n_rows_));
  }

  void project(const Buffer& x, std::span<const Projection> projections) override {
    for (const Projection& p : projections) {
      refuse(p.scale != 1 || p.cap != 0, "scaled logits");
      for (const Weight::Slice& slice : p.linear.weight.on_device->slices) project(x, p, slice);
      if (p.linear.bias) add_bias(p.linear.bias, p.out);
    }
  }

  void rope(Buffer& x, const RopeSpec& spec) override { rotate(x, staged_[turn_].angles, spec, x); }

  void rope_kept(const Buffer& q, const RopeSpec& spec, Buffer& out) override {
    rotate(q, staged_[turn_].kept_angles, spec, out);
  }

  void write_cache(Cache& cache, size_t layer, const Buffer& k, const Buffer& v,
                   const Buffer* gate) override {
    struct Push {
      uint32_t n_rows, kv_heads, first_head, n_heads, n_slots, n_pages, are_values, gate_width;
    };
    const auto& c = static_cast<const VulkanCache&>(cache);
    const CacheShape& s = c.shape();
    const auto& p = pipeline(device_, {"write_cache", s.type, {u32(s.head_dim)}}, 4);
    const size_t pieces = s.padded_dim() / piece_elements(s.type);
    for (size_t head = 0, n = 0; head < s.n_kv_heads; head += n) {
      n = c.heads_from(layer, head);
      for (const auto side : {VulkanCache::keys, VulkanCache::values}) {
        const Buffer& x = side == VulkanCache::keys ? k : v;
        const Buffer* x_gate = side == VulkanCache::keys ? nullptr : gate;
        dispatch(commands_, p,
                 {staged_[turn_].rows, current(x), current(x_gate != nullptr ? *x_gate : x),
                  c.heads(layer, side, head, n)},
                 Push{u32(n_rows_), u32(s.n_kv_heads), u32(head), u32(n), u32(s.n_slots),
                      u32(s.n_pages()), u32(side), gate_width(x, x_gate)},
                 threads(n_rows_ * n * pieces));
      }
    }
  }

  void attend(const Buffer& q, const Buffer* q_kept, const Cache& cache, size_t layer,
              const AttendSpec& spec, const Buffer* gate, Buffer& out) override {
    refuse(spec.cap != 0, "capped scores");
    const auto& c = static_cast<const VulkanCache&>(cache);
    const CacheShape& s = c.shape();
    const size_t group = q.cols() / s.head_dim / s.n_kv_heads;
    make_tiles(std::max<size_t>(1, n_queries_ / group));
    const size_t longest = std::ranges::max(gpu_tiles_, {}, &GpuTile::n_rows).n_rows;
    const size_t n_queries = std::min(n_queries_, group * longest);
    const size_t blocks = (group - 1) / n_queries + 1;
    // What a tile costs for one KV head, in multiply-adds, and how many heads one dispatch may
    // take.
    const auto cost_of = [&](const GpuTile& t) {
      return 2.0 * static_cast<double>((t.kept_pages + t.ring_pages) * page_positions * blocks *
                                       n_queries * s.head_dim);
    };
    const double worst = cost_of(*std::ranges::max_element(gpu_tiles_, {}, cost_of));
    const auto heads_of_dispatch = static_cast<size_t>(std::max(1.0, commands_.max_cost / worst));
    for (size_t head = 0, n_heads = 0; head < s.n_kv_heads; head += n_heads) {
      n_heads = std::min(c.heads_from(layer, head), heads_of_dispatch);
      for (size_t first = 0; first < gpu_tiles_.size();) {
        // As many tiles as one dispatch may take.
        double cost = 0;
        size_t pages = 0;  // of the longest
        size_t end = first;
        for (; end < gpu_tiles_.size(); ++end) {
          const GpuTile& t = gpu_tiles_[end];
          const double tile_cost = static_cast<double>(n_heads) * cost_of(t);
          if (end > first && cost + tile_cost > commands_.max_cost) break;
          cost += tile_cost;
          pages = std::max<size_t>(pages, t.kept_pages + t.ring_pages);
        }
        attend(q, q_kept, c, layer, spec, gate, out,
               {.first_tile = first,
                .head = head,
                .n_heads = n_heads,
                .group = group,
                .n_queries = n_queries,
                .n_items = (end - first) * n_heads * blocks,
                .pages = pages,
                .cost = cost});
        first = end;
      }
    }
  }

  void activate(Buffer& x, const Buffer* up, Activation kind) override {
    if (kind == Activation::silu && up != nullptr) return combine("swiglu", x, *up);
    refuse(kind != Activation::sigmoid || up != nullptr, "activations but silu");
    sigmoid(x);
  }

  void add(Buffer& x, const Buffer& y, float factor) override {
    refuse(factor != 1, "scaled residuals");
    combine("add", x, y);
  }

  void keep_wanted(const Buffer& x, Buffer& out) override {
    struct Push {
      uint32_t n_rows, cols;
    };
    dispatch(commands_, pipeline(device_, {"copy_rows"}, 3),
             {current(x), staged_[turn_].wanted, on_device(out).rows_from(0, n_wanted_)},
             Push{u32(n_wanted_), u32(x.cols())}, threads(n_wanted_ * padded_cols(x.cols()) / 4));
    n_rows_ = n_wanted_;
  }

  void keep_rows(const Buffer& x, size_t first, size_t n, Buffer& out) override {
    copy(commands_, on_device(x).rows_from(first, n), on_device(out).rows_from(0, n));
    n_rows_ = n;
  }

  void read(const Buffer& x, std::span<float> out) override {
    assert(out.size() == n_rows_ * x.cols());
    const Range from = current(x);
    if (readback_.bytes < from.bytes) {
      wait_for_all();
      grow_readback(from.bytes);
    }
    copy(commands_, from, {readback_.buffer, 0, from.bytes});
    wait_for_all();
    for (size_t r = 0; r < n_rows_; ++r) {
      std::memcpy(out.data() + r * x.cols(),
                  readback_.mapped + r * padded_cols(x.cols()) * sizeof(float),
                  x.cols() * sizeof(float));
    }
  }

  void likeliest(const Buffer& x, size_t k, std::span<Candidate> out) override {
    assert(out.size() == n_rows_ * k);
    if (k > most_candidates) {
      std::vector<float> values(n_rows_ * x.cols());  // (rows, cols)
      read(x, values);
      for (size_t r = 0; r < n_rows_; ++r) {
        find_likeliest(std::span(values).subspan(r * x.cols(), x.cols()), out.subspan(r * k, k));
      }
      return;
    }
    const size_t at_once = std::min<size_t>(rows_at_once(x), 8);              // keeps found_ small
    const uint64_t bytes = at_once * n_chunks(x.cols()) * k * sizeof(Found);  // of the first pass
    const uint64_t all_bytes = n_rows_ * k * sizeof(Found);
    if (found_[0].bytes < bytes || readback_.bytes < all_bytes) {
      wait_for_all();
      for (Memory& m : found_) m = Memory(device_, bytes, Memory::Kind::device, "candidates");
      grow_readback(all_bytes);
    }
    for (size_t row = 0; row < n_rows_; row += at_once) {
      const size_t n_rows = std::min(at_once, n_rows_ - row);
      const uint64_t part_bytes = n_rows * k * sizeof(Found);
      copy(commands_, find(x, row, n_rows, k),
           {readback_.buffer, row * k * sizeof(Found), part_bytes});
    }
    wait_for_all();
    for (size_t i = 0; i < out.size(); ++i) {
      Found found;
      std::memcpy(&found, readback_.mapped + i * sizeof found, sizeof found);
      out[i] = {static_cast<Token>(found.column), float_of(found.key)};
    }
  }

  void write(Buffer& x, std::span<const float> in) override {
    assert(in.size() == n_rows_ * x.cols());
    const Range to = current(x);
    wait_for_all();
    if (staging_.bytes < to.bytes) {
      staging_ = Memory(device_, to.bytes, Memory::Kind::upload, "staging");
      std::memset(staging_.mapped, 0, to.bytes);
    }
    for (size_t r = 0; r < n_rows_; ++r) {
      std::memcpy(staging_.mapped + r * padded_cols(x.cols()) * sizeof(float),
                  in.data() + r * x.cols(), x.cols() * sizeof(float));
    }
    copy(commands_, {staging_.buffer, 0, to.bytes}, to);
  }

  void wait_for_all() override {
    const uint64_t submission = submit(commands_);
    staged_[turn_].last_use = submission;
    wait(commands_, submission);
  }

  double wait_seconds() const override {
    return std::chrono::duration<double>(commands_.waited).count();
  }

 private:
  /// What the host writes of a batch. Two take turns, so that the next batch can be recorded while
  /// the device works on this one.
  struct Staged {
    Memory memory;
    Range rows, views, tiles, angles, kept_angles, wanted;
    uint64_t last_use = 0;  // the submission that a batch ended with, or a later one
  };

  struct AttendPart {
    size_t first_tile;
    size_t head;
    size_t n_heads;
    size_t group;  // query heads of a KV head
    size_t n_queries;
    size_t n_items;
    size_t pages;
    double cost;
  };

  /// Rows of x that can be bound at once where the batch's are too many. Eight rows of any width
  /// are a multiple of 256 bytes, and so begin where a binding may.
  size_t rows_at_once(const Buffer& x) const {
    const uint64_t row = padded_cols(x.cols()) * sizeof(float);
    const uint64_t n = device_.limits.storage_range / row;
    const uint64_t least = std::min<uint64_t>(n_rows_, 8);
    if (n < least) {
      throw Error("activations", std::to_string(least) + " rows take " +
                                     std::to_string(least * row) + " bytes, the device binds " +
                                     std::to_string(device_.limits.storage_range));
    }
    return n >= n_rows_ ? n_rows_ : n / 8 * 8;
  }

  void grow_readback(uint64_t bytes) {
    readback_ = Memory(device_, bytes, Memory::Kind::readback, "readback");
  }

  /// Finds the k largest of each of some rows; where they are: (n_rows, k) of Found.
  Range find(const Buffer& x, size_t first_row, size_t n_rows, size_t k) {
    struct Push {
      uint32_t n_rows, n_cols, k, first_pass;
    };
    const auto& p = pipeline(device_, {"likeliest", {}, {u32(std::bit_ceil(k))}}, 2);
    Range from = on_device(x).rows_from(first_row, n_rows);
    size_t n_cols = x.cols();
    for (size_t pass = 0;; ++pass) {
      const size_t n_groups = n_rows * n_chunks(n_cols);
      const Range to = {found_[pass % 2].buffer, 0, n_groups * k * sizeof(Found)};
      dispatch(commands_, p, {from, to},
               Push{u32(n_rows), u32(n_cols), u32(k), pass == 0 ? 1u : 0u}, grid(n_groups));
      if (n_groups == n_rows) return to;
      from = to;
      n_cols = n_chunks(n_cols) * k;
    }
  }

  /// The rows of a buffer that the batch has.
  Range current(const Buffer& x) const { return on_device(x).rows_from(0, n_rows_); }
  std::array<uint32_t, 3> threads(size_t n) const {
    return grid((n - 1) / device_.limits.workgroup_size + 1);
  }
  /// Columns of x that share a gate; 0 if there is none.
  static uint32_t gate_width(const Buffer& x, const Buffer* gate) {
    return gate == nullptr ? 0 : u32(x.cols() / gate->cols());
  }
  static const Weight::Slice& vector(const Tensor& v) { return v.on_device->slices.front(); }
  static uint32_t row_halves(const Tensor& t) { return u32(row_bytes(t.type, t.cols) / 2); }

  void fill(const Range& to, std::span<const std::byte> bytes) {
    std::ranges::copy(bytes, staged_[turn_].memory.mapped + to.offset);
  }

  /// x combined element by element with y.
  void combine(const char* op, Buffer& x, const Buffer& y) {
    struct Push {
      uint32_t n;
    };
    const size_t n = n_rows_ * padded_cols(x.cols()) / 4;
    dispatch(commands_, pipeline(device_, {op}, 2), {current(y), current(x)}, Push{u32(n)},
             threads(n));
  }

  void sigmoid(Buffer& x) {
    struct Push {
      uint32_t n_rows, cols;
    };
    dispatch(commands_, pipeline(device_, {"sigmoid"}, 1), {current(x)},
             Push{u32(n_rows_), u32(x.cols())}, threads(n_rows_ * x.cols()));
  }

  void add_bias(const Tensor& bias, Buffer& x) {
    struct Push {
      uint32_t n_rows, cols, bias_base;
    };
    dispatch(commands_, pipeline(device_, {"add_bias"}, 2), {vector(bias).range, current(x)},
             Push{u32(n_rows_), u32(x.cols()), vector(bias).base / 2}, threads(n_rows_ * x.cols()));
  }

  void rotate(const Buffer& x, const Range& angles, const RopeSpec& spec, const Buffer& out) {
    refuse(spec.table > 0, "two tables of angles");
    struct Push {
      uint32_t n_rows, n_heads, head_dim, n_pairs, half_split;
    };
    const size_t n_heads = x.cols() / spec.head_dim;
    dispatch(commands_, pipeline(device_, {"rope"}, 3), {current(x), angles, current(out)},
             Push{u32(n_rows_), u32(n_heads), u32(spec.head_dim), u32(n_pairs_),
                  spec.half_split ? 1u : 0u},
             threads(n_rows_ * n_heads * (spec.head_dim - n_pairs_)));
  }

  void project(const Buffer& x, const Projection& p, const Weight::Slice& slice) {
    struct Push {
      uint32_t base, row_halves, cols, n_rows, first_output, n_outputs, out_cols;
    };
    const bool few = n_rows_ <= matvec_rows;
    const size_t at_once = rows_at_once(p.out);
    for (size_t row = 0; row < n_rows_; row += at_once) {
      const size_t n_rows = std::min(at_once, n_rows_ - row);
      // Multiply-adds, or bytes where those take longer.
      const auto per_output = static_cast<double>(
          std::max<uint64_t>(n_rows * x.cols(), row_bytes(p.linear.weight.type, x.cols())));
      const size_t outputs_at_once = std::max<size_t>(
          tile, static_cast<size_t>(commands_.max_cost / per_output) / tile * tile);
      const size_t team_outputs = n_rows > 4 ? 1 : 2;
      const Shader shader = few ? Shader{"matvec",
                                         p.linear.weight.type,
                                         {u32(team_outputs), u32(std::bit_ceil(n_rows))}}
                                : Shader{"matmul", p.linear.weight.type};
      const auto& kernel = pipeline(device_, shader, 3);
      const uint32_t teams = device_.limits.subgroup_size > 1
                                 ? device_.limits.workgroup_size / device_.limits.subgroup_size
                                 : 1;
      for (size_t output = 0; output < slice.n_rows; output += outputs_at_once) {
        const size_t n_outputs = std::min(outputs_at_once, slice.n_rows - output);
        dispatch(commands_, kernel,
                 {slice.range, on_device(x).rows_from(row, n_rows),
                  on_device(p.out).rows_from(row, n_rows)},
                 Push{u32(slice.base + output * row_halves(p.linear.weight)),
                      row_halves(p.linear.weight), u32(x.cols()), u32(n_rows),
                      u32(slice.first_row + output), u32(n_outputs), u32(p.out.cols())},
                 few ? grid((n_outputs - 1) / (teams * team_outputs) + 1)
                     : std::array<uint32_t, 3>{u32((n_outputs - 1) / tile + 1),
                                               u32((n_rows - 1) / tile + 1), 1},
                 per_output * static_cast<double>(n_outputs));
      }
    }
  }

  /// Tiles of the batch, when the first layer asks.
  void make_tiles(size_t tile_rows) {
    if (tile_rows_ == tile_rows) return;
    tile_rows_ = tile_rows;
    plan_tiles(rows_of_batch_, first_visible_, shape_, tile_rows, gpu_views_, gpu_tiles_);
    fill(staged_[turn_].views, std::as_bytes(std::span(gpu_views_)));
    fill(staged_[turn_].tiles, std::as_bytes(std::span(gpu_tiles_)));
  }

  void attend(const Buffer& q, const Buffer* q_kept, const VulkanCache& c, size_t layer,
              const AttendSpec& spec, const Buffer* gate, Buffer& out, const AttendPart& part) {
    struct Push {
      uint32_t n_items, n_splits, group_size, first_head, n_heads, kv_heads, n_slots, kept_pages,
          ring_pages;
      float scale;
      uint32_t first_tile, gate_width;
    };
    const CacheShape& s = c.shape();
    const Staged& staged = staged_[turn_];
    // Few workgroups over many pages share them.
    const size_t n_splits =
        part.n_items >= wanted_groups
            ? 1
            : std::min<size_t>(part.pages, (wanted_groups - 1) / part.n_items + 1);
    const std::array constants = {u32(s.head_dim), u32(part.n_queries)};
    const Push push = {u32(part.n_items), u32(n_splits),        u32(part.group),
                       u32(part.head),    u32(part.n_heads),    u32(s.n_kv_heads),
                       u32(s.n_slots),    u32(s.kept_pages()),  u32(s.ring_pages()),
                       spec.scale,        u32(part.first_tile), gate_width(q, gate)};
    const Range gates = current(gate != nullptr ? *gate : q);
    dispatch(commands_, pipeline(device_, {"attend", s.type, constants}, 8),
             {gates, current(q), q_kept != nullptr ? current(*q_kept) : current(q),
              c.heads(layer, VulkanCache::keys, part.head, part.n_heads),
              c.heads(layer, VulkanCache::values, part.head, part.n_heads), staged.views,
              staged.tiles, n_splits > 1 ? whole(partials_) : current(out)},
             push, grid(part.n_items, n_splits), part.cost);
    if (n_splits == 1) return;
    dispatch(commands_, pipeline(device_, {"attend_merge", {}, constants}, 4),
             {gates, whole(partials_), staged.tiles, current(out)}, push,
             threads(part.n_items * part.n_queries * s.padded_dim() / 4));
  }

  Device& device_;
  std::array<Staged, 2> staged_;
  size_t turn_ = 0;
  // Of the session's cache; ops that need none work before there is one.
  CacheShape shape_ = {0, 1, 1, 0, page_positions, 1, 1, DType::f32};
  size_t n_queries_ = 0;         // that attention's shared memory holds
  Memory partials_;              // (n_items, n_splits, n_queries) sums of attention
  std::array<Memory, 2> found_;  // (rows, chunks, k) what passes of likeliest() found
  Memory readback_;
  Memory staging_;
  Commands commands_;  // goes before what it uses, and waits
  size_t n_rows_ = 0;  // of the batch, or those that keep_wanted() or keep_rows() left
  size_t n_wanted_ = 0;
  size_t n_pairs_ = 0;
  size_t tile_rows_ = 0;  // that gpu_tiles_ is made for
  std::vector<BatchRow> rows_of_batch_;
  std::vector<int64_t> first_visible_;  // of those
  std::vector<GpuRow> gpu_rows_;
  std::vector<GpuView> gpu_views_;
  std::vector<GpuTile> gpu_tiles_;
};

}  // namespace

std::unique_ptr<Backend> new_backend(Device& device) {
  return std::make_unique<VulkanBackend>(device);
}

}  // namespace vga::vulkan
