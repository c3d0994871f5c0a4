#include "vulkan/vulkan_backend.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <utility>

#include "vga/error.h"
#include "vulkan/batch.h"
#include "vulkan/commands.h"
#include "vulkan/device_model.h"
#include "vulkan/grid.h"
#include "vulkan/vulkan_attention.h"
#include "vulkan/vulkan_buffer.h"
#include "vulkan/vulkan_cache.h"
#include "vulkan/vulkan_delta_net.h"
#include "vulkan/vulkan_products.h"
#include "vulkan/vulkan_state.h"

namespace vga::vulkan {
namespace {

constexpr size_t candidate_chunk = 1024;  // columns that a workgroup of likeliest.comp takes
constexpr size_t most_candidates = 256;   // that it finds

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

class VulkanBackend : public Backend {
 public:
  explicit VulkanBackend(Device& device)
      : device_(device),
        attention_(device, commands_),
        delta_net_(device, commands_),
        products_(device, commands_),
        commands_(device) {}

  std::string description() const override { return "vulkan " + device_.info.name; }

  std::unique_ptr<Buffer> new_buffer(size_t rows, size_t cols) override {
    auto buffer = std::make_unique<VulkanBuffer>(commands_, rows, cols);
    clear(commands_, whole(buffer->memory()));  // what pads the rows stays zero
    return buffer;
  }

  std::unique_ptr<Cache> new_cache(const CacheShape& shape) override {
    attention_.prepare(shape);
    return std::make_unique<VulkanCache>(commands_, shape);
  }

  void copy_slot(Cache& cache, size_t from_slot, size_t to_slot, int64_t length) override {
    on_device(cache).copy_slot(from_slot, to_slot, length);
  }

  std::unique_ptr<State> new_state(const StateShape& shape) override {
    return std::make_unique<VulkanState>(commands_, shape);
  }

  void copy_state(const State& from, size_t from_slot, State& to, size_t to_slot) override {
    for (size_t layer = 0; layer < from.shape().n_layers; ++layer) {
      copy(commands_, on_device(from).slots(layer, from_slot, 1),
           on_device(to).slots(layer, to_slot, 1));
    }
  }

  void begin(const Batch& batch) override {
    batch_ = batch;
    n_rows_ = batch.rows.size();
    staged_[turn_].last_use = submit(commands_);
    turn_ = 1 - turn_;
    wait(commands_, staged().last_use);
    staged().begin(device_, batch);
    attention_.begin(batch, staged());
    delta_net_.begin(batch, staged());
  }

  void embed(const Tensor& table, float scale, const Tensor* positions, Buffer& x) override {
    look_up(table, scale, false, x);
    if (positions != nullptr) look_up(*positions, 1, true, x);
  }

  void norm(const Buffer& x, const Norm& norm, NormKind kind, float eps, Buffer& out) override {
    struct Push {
      uint32_t cols, row_groups, n_groups, weight_base, has_bias, bias_base, centred;
      float eps;
    };
    const size_t cols = norm.weight.cols;
    const size_t row_groups = x.cols() / cols;
    const size_t n_groups = n_rows_ * row_groups;
    const Range weight = range_of(norm.weight, {});
    const BoundVector bias = bound(norm.bias);
    dispatch(commands_, pipeline(device_, {"norm"}, 4),
             {current(x), weight, range_of(norm.bias, weight), current(out)},
             Push{u32(cols), u32(row_groups), u32(n_groups), bound(norm.weight).base, bias.present,
                  bias.base, kind == NormKind::layer ? 1u : 0u, eps},
             grid(n_groups));
  }

  void project(const Buffer& x, std::span<const Projection> projections) override {
    // Those of a kind do not wait for each other.
    for (size_t i = 0; i < projections.size(); ++i) {
      const LowRank& change = projections[i].linear.change;
      if (change) products_.project(x, n_rows_, change.a, reduced(i, change), {});
    }
    for (size_t i = 0; i < projections.size(); ++i) {
      const auto& [linear, out, scale, cap] = projections[i];
      if (!linear.change) continue;
      products_.project(reduced(i, linear.change), n_rows_, linear.change.b, out, {});
    }
    for (const auto& [linear, out, scale, cap] : projections) {
      products_.project(x, n_rows_, linear.weight, out,
                        {.bias = linear.bias,
                         .adds = static_cast<bool>(linear.change),
                         .scale = scale,
                         .cap = cap});
    }
  }

  void rope(Buffer& x, const RopeSpec& spec) override {
    rotate(x, staged().angles[spec.table], spec, x);
  }

  void rope_kept(const Buffer& q, const RopeSpec& spec, Buffer& out) override {
    rotate(q, staged().kept_angles[spec.table], spec, out);
  }

  void write_cache(Cache& cache, size_t layer, const Buffer& k, const Buffer& v,
                   const Buffer* gate) override {
    attention_.write_cache(on_device(cache), layer, k, v, gate);
  }

  void attend(const Buffer& q, const Buffer* q_kept, const Cache& cache, size_t layer,
              const AttendSpec& spec, const Buffer* gate, Buffer& out) override {
    attention_.attend(q, q_kept, on_device(cache), layer, spec, gate, out);
  }

  void activate(Buffer& x, const Buffer* up, Activation kind) override {
    struct Push {
      uint32_t n_rows, cols;
    };
    // activate.comp counts them in this order.
    static_assert(
        static_cast<int>(Activation::silu) == 0 && static_cast<int>(Activation::gelu_tanh) == 1 &&
        static_cast<int>(Activation::gelu) == 2 && static_cast<int>(Activation::relu) == 3 &&
        static_cast<int>(Activation::sigmoid) == 4);
    const std::array constants = {static_cast<uint32_t>(kind), up != nullptr ? 1u : 0u};
    dispatch(commands_, pipeline(device_, {"activate", {}, constants}, 2),
             {current(up != nullptr ? *up : x), current(x)}, Push{u32(n_rows_), u32(x.cols())},
             threads(n_rows_ * padded_cols(x.cols()) / 4));
  }

  void add(Buffer& x, const Buffer& y, float factor) override {
    struct Push {
      uint32_t n;
      float factor;
    };
    const size_t n = n_rows_ * padded_cols(x.cols()) / 4;
    dispatch(commands_, pipeline(device_, {"add"}, 2), {current(y), current(x)},
             Push{u32(n), factor}, threads(n));
  }

  void convolve(Buffer& x, const Tensor& taps, State& state, size_t layer) override {
    delta_net_.convolve(x, taps, on_device(state), layer);
  }

  void decay(Buffer& x, const Tensor& bias, const Tensor& scale) override {
    struct Push {
      uint32_t n_rows, cols, bias_base, scale_base;
    };
    dispatch(commands_, pipeline(device_, {"decay"}, 3),
             {range_of(bias, {}), range_of(scale, {}), current(x)},
             Push{u32(n_rows_), u32(x.cols()), bound(bias).base, bound(scale).base},
             threads(n_rows_ * x.cols()));
  }

  void delta_rule(Buffer& qkv, const Buffer& decay, const Buffer& strength, State& state,
                  size_t layer, Buffer& out) override {
    delta_net_.run(qkv, decay, strength, on_device(state), layer, out);
  }

  void route(const Buffer& logits, const Tensor& choice_bias, const Experts& experts,
             Buffer& out) override {
    struct Push {
      uint32_t n_rows, n_experts, n_used, of_each, has_bias, bias_base, normalised;
      float scale;
    };
    static_assert(max_used_experts == 64);  // max_used of route.comp
    const BoundVector bias = bound(choice_bias);
    dispatch(commands_, pipeline(device_, {"route"}, 3),
             {current(logits), range_of(choice_bias, current(logits)), current(out)},
             Push{u32(n_rows_), u32(experts.n), u32(experts.n_used),
                  experts.router == Experts::Router::sigmoid ? 1u : 0u, bias.present, bias.base,
                  experts.normalised ? 1u : 0u, experts.scale},
             grid(n_rows_));
  }

  void project_experts(const Buffer& x, const Buffer& routed,
                       std::span<const ExpertProjection> projections) override {
    products_.project_experts(x, n_rows_, routed, projections);
  }

  void mix_experts(const Buffer& y, const Buffer& routed, Buffer& out) override {
    struct Push {
      uint32_t n_rows, cols, n_used;
    };
    dispatch(commands_, pipeline(device_, {"mix_experts"}, 3),
             {current(y), current(routed), current(out)},
             Push{u32(n_rows_), u32(out.cols()), u32(routed.cols() / 2)},
             threads(n_rows_ * out.cols()));
  }

  void scale_rows(Buffer& x, const Buffer& factors) override {
    struct Push {
      uint32_t n_rows, cols;
    };
    dispatch(commands_, pipeline(device_, {"scale_rows"}, 2), {current(factors), current(x)},
             Push{u32(n_rows_), u32(x.cols())}, threads(n_rows_ * padded_cols(x.cols()) / 4));
  }

  void keep_wanted(const Buffer& x, Buffer& out) override {
    struct Push {
      uint32_t n_rows, cols;
    };
    const size_t n_wanted = batch_.wanted.size();
    dispatch(commands_, pipeline(device_, {"copy_rows"}, 3),
             {current(x), staged().wanted, on_device(out).rows_from(0, n_wanted)},
             Push{u32(n_wanted), u32(x.cols())}, threads(n_wanted * padded_cols(x.cols()) / 4));
    n_rows_ = n_wanted;
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
    const size_t at_once =
        std::min<size_t>(rows_at_once(device_.limits, x, n_rows_), 8);        // keeps found_ small
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
    staged().last_use = submit(commands_);
    wait(commands_, staged().last_use);
  }

  double wait_seconds() const override {
    return std::chrono::duration<double>(commands_.waited).count();
  }

 private:
  Staged& staged() { return staged_[turn_]; }

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
  static uint32_t row_halves(const Tensor& t) { return u32(row_bytes(t.type, t.cols) / 2); }

  /// x = rows of a table by token, or x += those by position.
  void look_up(const Tensor& table, float scale, bool of_positions, Buffer& x) {
    struct Push {
      uint32_t base, row_halves, cols, first_row, part_rows, n_rows;
      float scale;
      uint32_t of_positions;
    };
    const auto& p = pipeline(device_, {"embed", table.type}, 3);
    for (const Weight::Slice& slice : table.on_device->slices) {
      dispatch(commands_, p, {slice.range, staged().rows, current(x)},
               Push{slice.base, row_halves(table), u32(table.cols), slice.first_row, slice.n_rows,
                    u32(n_rows_), scale, of_positions ? 1u : 0u},
               threads(n_rows_ * ((table.cols + 7) / 8)));
    }
  }

  void rotate(const Buffer& x, const Range& angles, const RopeSpec& spec, const Buffer& out) {
    struct Push {
      uint32_t n_rows, n_heads, head_dim, n_pairs, half_split;
    };
    const size_t n_heads = x.cols() / spec.head_dim;
    const size_t n_pairs = batch_.angles[spec.table].size() / n_rows_ / 2;
    dispatch(commands_, pipeline(device_, {"rope"}, 3), {current(x), angles, current(out)},
             Push{u32(n_rows_), u32(n_heads), u32(spec.head_dim), u32(n_pairs),
                  spec.half_split ? 1u : 0u},
             threads(n_rows_ * n_heads * (spec.head_dim - n_pairs)));
  }

  /// Where x is kept as the change of the i-th projection sees it: (rows, rank).
  Buffer& reduced(size_t i, const LowRank& change) {
    std::unique_ptr<Buffer>& buffer = reduced_[{i, change.a.rows}];
    if (buffer == nullptr || buffer->rows() < n_rows_) buffer = new_buffer(n_rows_, change.a.rows);
    return *buffer;
  }

  Device& device_;
  std::array<Staged, 2>
      staged_;                   // they take turns: while the device works on a batch, the next one
  size_t turn_ = 0;              // can be recorded
  std::array<Memory, 2> found_;  // (rows, chunks, k) what passes of likeliest() found
  Memory readback_;
  Memory staging_;
  VulkanAttention attention_;
  VulkanDeltaNet delta_net_;
  VulkanProducts products_;
  Commands commands_;  // goes before what it uses, and waits
  std::map<std::array<size_t, 2>, std::unique_ptr<Buffer>> reduced_;  // by projection and rank
  Batch batch_;
  size_t n_rows_ = 0;  // of the batch, or those that keep_wanted() or keep_rows() left
};

}  // namespace

std::unique_ptr<Backend> new_backend(Device& device) {
  return std::make_unique<VulkanBackend>(device);
}

}  // namespace vga::vulkan
