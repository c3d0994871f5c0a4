/// Attention on a device, over caches of several kinds, against the CPU's scalar kernels. Skipped
/// where there is no device.

#include <optional>
#include <sstream>

#include "vga/config.h"
#include "vulkan_ops.h"

namespace vga::vulkan {
namespace {

using Gate = AttentionGate;

/// Attention over caches that chunks of several sequences fill one after the other, of two kinds of
/// layers: kind 0 sees everything, kind 1 a window.
struct AttendCase {
  size_t n_heads;
  size_t n_kv_heads;
  size_t head_dim;
  size_t window;  // 0: all layers are of kind 0, else of kind 1
  size_t n_kept;
  Gate gate = {};
  float cap = 0;
  bool both = false;  // there are layers of either kind
};

constexpr Gate values_by_head = {Gate::Source::value, Gate::Placement::value,
                                 Gate::Granularity::head};
constexpr Gate values_by_element = {Gate::Source::value, Gate::Placement::value,
                                    Gate::Granularity::element};
constexpr Gate outputs_by_head = {Gate::Source::value, Gate::Placement::output,
                                  Gate::Granularity::head};
constexpr Gate outputs_by_element = {Gate::Source::value, Gate::Placement::output,
                                     Gate::Granularity::element};

class VulkanAttend : public VulkanOps, public testing::WithParamInterface<AttendCase> {
 protected:
  /// One kind of layers.
  struct Kind {
    CacheShape shape;
    std::unique_ptr<Cache> on_cpu;
    std::unique_ptr<Cache> on_gpu;
  };
  std::vector<Kind> kinds(const AttendCase& c, DType type) {
    std::vector<Kind> made;
    for (size_t kind = 0; kind < 2; ++kind) {
      if (!c.both && (kind == 1) != (c.window > 0)) continue;
      const CacheShape shape = {.kind = kind,
                                .n_layers = 2,
                                .n_slots = 3,
                                .n_kept = kind == 1 ? c.n_kept : 0,
                                .n_ring = (kind == 1 ? 2 : 5) * page_positions,
                                .n_kv_heads = c.n_kv_heads,
                                .head_dim = c.head_dim,
                                .type = type};
      const uint64_t head_bytes = shape.n_slots * shape.n_pages() * shape.page_bytes();
      if (head_bytes > device().device.limits.storage_range) return {};  // forced
      made.push_back({shape, cpu_->new_cache(shape), gpu_->new_cache(shape)});
    }
    return made;
  }

  /// Begins a batch of so many rows of each slot, which go on where they ended.
  void begin_rows(const AttendCase& c, const std::array<size_t, 3>& counts) {
    std::vector<BatchRow> rows;
    for (uint32_t slot = 0; slot < 3; ++slot) {
      for (size_t i = 0; i < counts[slot]; ++i) rows.push_back({0, slot, next_[slot]++});
    }
    std::vector<int64_t> first_visible(rows.size(), 0);  // then those of kind 1
    for (const BatchRow& row : rows) {
      first_visible.push_back(std::max(static_cast<int64_t>(c.n_kept),
                                       row.position - static_cast<int64_t>(c.window) + 1));
    }
    begin(std::move(rows), {.first_visible = std::move(first_visible)});
  }

  struct Batch {
    std::array<size_t, 3> counts;  // of rows of each slot
    bool attends = true;
  };
  void write_and_attend(const AttendCase& c, const Kind& kind, bool attends,
                        const std::string& what) {
    const CacheShape& s = kind.shape;
    const Both k = cached_buffer(s.type, c.n_kv_heads * c.head_dim, seed_++);
    const Both v = cached_buffer(s.type, c.n_kv_heads * c.head_dim, seed_++);
    const Both q = random_buffer(c.n_heads * c.head_dim, seed_++);
    const Both q_kept = random_buffer(c.n_heads * c.head_dim, seed_++);
    const Both out = buffer(c.n_heads * c.head_dim);
    const bool on_outputs = c.gate && c.gate.placement == Gate::Placement::output;
    const bool on_values = c.gate && c.gate.placement == Gate::Placement::value;
    const bool by_element = c.gate.granularity == Gate::Granularity::element;
    const size_t n_gates = (on_outputs ? c.n_heads : c.n_kv_heads) * (by_element ? c.head_dim : 1);
    const Both gate = gate_buffer(s.type, n_gates, by_element, seed_++);
    // Without a cap as attention does it; scores that a cap bends have to be larger.
    const AttendSpec spec = {(c.cap > 0 ? 2 : 1) / std::sqrt(static_cast<float>(c.head_dim)),
                             c.cap};
    const size_t layer = 1;
    const auto run = [&](Backend& ops, Cache& cache, const auto& side) {
      const Buffer* kept = s.n_kept > 0 ? side(q_kept) : nullptr;
      ops.write_cache(cache, layer, *side(k), *side(v), on_values ? side(gate) : nullptr);
      if (!attends) return;
      ops.attend(*side(q), kept, cache, layer, spec, on_outputs ? side(gate) : nullptr, *side(out));
    };
    run(*cpu_, *kind.on_cpu, [](const Both& b) { return b.cpu.get(); });
    run(*gpu_, *kind.on_gpu, [](const Both& b) { return b.gpu.get(); });
    if (attends) expect_equal(out, 2e-5, what + ", kind " + std::to_string(s.kind));
  }

  std::array<int64_t, 3> next_ = {};  // position of each slot
  uint32_t seed_ = 20;
};

TEST_P(VulkanAttend, EqualsTheCpu) {
  const AttendCase& c = GetParam();
  for (const DType type : {DType::f16, DType::f32, DType::q8_0}) {
    if (c.head_dim % block_elements(type) != 0) continue;
    const std::vector<Kind> caches = kinds(c, type);
    if (caches.empty()) continue;
    next_ = {};
    seed_ = 20;
    // Prefill of one slot in chunks, slots together, then single tokens far behind. What makes them
    // far is written alone: to attend to it takes a driver on the CPU most of a minute.
    const std::vector<Batch> batches = {{{1, 0, 0}},          {{2, 3, 0}},          {{40, 1, 1}},
                                        {{0, 200, 0}, false}, {{0, 200, 0}, false}, {{1, 1, 1}},
                                        {{0, 70, 9}},         {{0, 200, 0}, false}, {{0, 1, 0}},
                                        {{1, 1, 0}},          {{0, 3, 0}}};
    for (const auto& [counts, attends] : batches) {
      begin_rows(c, counts);
      for (const Kind& kind : caches) {
        write_and_attend(
            c, kind, attends,
            sizes({counts[0], counts[1], counts[2]}) + " rows, " + std::string(name(type)));
        if (HasFatalFailure()) return;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, VulkanAttend,
    testing::Values(
        AttendCase{1, 1, 64, 0, 0}, AttendCase{6, 2, 80, 0, 0}, AttendCase{3, 3, 45, 0, 0},
        AttendCase{16, 1, 48, 0, 0}, AttendCase{11, 1, 7, 0, 0}, AttendCase{2, 1, 256, 0, 0},
        AttendCase{3, 1, 257, 0, 0}, AttendCase{4, 2, 320, 200, 4}, AttendCase{5, 1, 512, 0, 0},
        AttendCase{4, 2, 32, 200, 0}, AttendCase{4, 2, 32, 200, 4}, AttendCase{8, 4, 128, 100, 300},
        AttendCase{6, 2, 32, 0, 0, values_by_head}, AttendCase{3, 3, 45, 200, 4, values_by_element},
        AttendCase{2, 2, 64, 0, 0, values_by_element}, AttendCase{11, 1, 45, 0, 0, outputs_by_head},
        AttendCase{6, 2, 32, 200, 4, outputs_by_element}, AttendCase{4, 2, 64, 0, 0, {}, 1.5f},
        AttendCase{3, 1, 45, 200, 4, outputs_by_head, 0.7f},
        AttendCase{2, 1, 32, 200, 3, {}, 0, true}),
    [](const auto& row) {
      const AttendCase& c = row.param;
      std::ostringstream name;
      name << c.n_heads << "_over_" << c.n_kv_heads << "_heads_of_" << c.head_dim << "_window_"
           << c.window << "_kept_" << c.n_kept;
      if (c.gate) {
        name << '_' << vga::name(c.gate.placement) << "_gate_by_" << vga::name(c.gate.granularity);
      }
      if (c.cap > 0) name << "_capped";
      if (c.both) name << "_beside_all";
      return name.str();
    });

// What sees nothing but itself gets its own value.
TEST_F(VulkanOps, Q8_0CacheRoundsToTheNearest) {
  constexpr size_t head_dim = 96;
  const auto cache = gpu_->new_cache({.kind = 0,
                                      .n_layers = 1,
                                      .n_slots = 1,
                                      .n_kept = 0,
                                      .n_ring = page_positions,
                                      .n_kv_heads = 2,
                                      .head_dim = head_dim,
                                      .type = DType::q8_0});
  std::vector<BatchRow> rows;
  std::vector<int64_t> first_visible;
  for (int64_t i = 0; i < 100; ++i) {
    rows.push_back({0, 0, i});
    first_visible.push_back(i);
  }
  begin(std::move(rows), {.first_visible = std::move(first_visible)});
  std::vector<float> values = random_floats(n_rows_ * 2 * head_dim, 1);
  std::fill_n(values.begin() + 64, 32, 0.f);     // no step at all
  std::fill_n(values.begin() + 96, 32, 1e-20f);  // one too small for f16
  const Both v = buffer(2 * head_dim, values);
  const Both out = buffer(2 * head_dim);
  gpu_->write_cache(*cache, 0, *v.gpu, *v.gpu, nullptr);
  gpu_->attend(*v.gpu, nullptr, *cache, 0, {.scale = 1}, nullptr, *out.gpu);
  std::vector<float> found(values.size());
  gpu_->read(*out.gpu, found);
  for (size_t i = 0; i < values.size(); i += 32) {
    float most = 0;
    for (size_t j = i; j < i + 32; ++j) most = std::max(most, std::fabs(values[j]));
    // Half a step, and that the step is rounded to f16.
    const float allowed = most < 1e-10f ? 1e-10f : most / 127 * (0.5f + 127.f / 2048 + 1e-3f);
    for (size_t j = i; j < i + 32; ++j) ASSERT_NEAR(found[j], values[j], allowed) << j;
  }
}

}  // namespace
}  // namespace vga::vulkan
