/// The Vulkan backend's ops, one by one, against those of the CPU's scalar kernels. Skipped where
/// there is no device.

#include <functional>
#include <memory>
#include <optional>
#include <sstream>
#include <string>

#include <gtest/gtest.h>

#include "compute/device_choice.h"
#include "cpu/cpu_backend.h"
#include "encoded.h"
#include "vga/config.h"
#include "vulkan/device_model.h"
#include "vulkan/vulkan_backend.h"
#include "vulkan_device.h"

namespace vga::vulkan {
namespace {

using test::Encoded;
using test::random_floats;
using test::small_integers;

/// A weight of any bits, or a vector of numbers, on the device. One at a time, for drivers do not
/// like many pieces of memory.
struct TestWeight {
  TestWeight(DeviceWeights& on, DType type, size_t rows, size_t cols)
      : TestWeight(on, type, rows, cols,
                   is_plain(type) ? Encoded(type, random_floats(rows * cols, 1, 0.5f), cols)
                                  : Encoded::bits(type, rows, cols)) {}
  TestWeight(DeviceWeights& on, DType type, size_t rows, size_t cols, Encoded encoded)
      : device(on),
        bytes(std::move(encoded)),
        tensor{.type = type, .rows = rows, .cols = cols, .data = bytes.data()} {
    load();
  }
  /// Vectors are read as floats and lie like those.
  TestWeight(DeviceWeights& on, std::vector<float> vector)
      : device(on),
        floats(std::move(vector)),
        tensor{.type = DType::f32,
               .rows = 1,
               .cols = floats.size(),
               .data = reinterpret_cast<const std::byte*>(floats.data())} {
    load();
  }
  TestWeight(const TestWeight&) = delete;
  TestWeight& operator=(const TestWeight&) = delete;
  ~TestWeight() {
    device.memory.clear();
    device.weights.clear();
  }

  void load() {
    Tensor* const tensors[] = {&tensor};
    vulkan::load(device, tensors, 0, nullptr);
  }

  DeviceWeights& device;
  Encoded bytes = Encoded(DType::f32, {}, 1);  // of a matrix
  std::vector<float> floats;                   // of a vector
  Tensor tensor;
};

class VulkanOps : public testing::Test {
 protected:
  // One device for all tests: its pipelines take the time.
  static void SetUpTestSuite() {
    why_not_ = test::why_no_device();
    if (!why_not_.empty()) return;
    weights_ = std::make_unique<DeviceWeights>(choose_device(devices(), {"vulkan"}));
  }
  static void TearDownTestSuite() { weights_.reset(); }

  void SetUp() override {
    if (weights_ == nullptr) GTEST_SKIP() << why_not_;
    gpu_ = new_backend(weights_->device);
    cpu_ = cpu::new_backend(1, cpu::scalar_kernels);
  }

  static DeviceWeights& device() { return *weights_; }

  /// Rows of one sequence, or of those that `rows` name.
  void begin(size_t n_rows) {
    std::vector<BatchRow> rows;
    for (size_t i = 0; i < n_rows; ++i) {
      rows.push_back({static_cast<Token>(i * i % 5), 0, static_cast<int64_t>(i)});
    }
    begin(std::move(rows));
  }
  void begin(std::vector<BatchRow> rows, size_t n_pairs = 1, std::vector<uint32_t> wanted = {},
             std::vector<int64_t> first_visible = {}) {
    rows_ = std::move(rows);
    first_visible_ = std::move(first_visible);
    first_visible_.resize(rows_.size());
    wanted_ = std::move(wanted);
    n_rows_ = rows_.size();
    angles_ = random_floats(n_rows_ * n_pairs * 2, 11);
    kept_angles_ = random_floats(n_rows_ * n_pairs * 2, 12);
    const Batch batch = {.rows = rows_,
                         .first_visible = first_visible_,
                         .angles = {angles_},
                         .kept_angles = {kept_angles_},
                         .wanted = wanted_};
    cpu_->begin(batch);
    gpu_->begin(batch);
  }

  /// A buffer on both, of more rows than the batch has.
  struct Both {
    std::unique_ptr<Buffer> cpu;
    std::unique_ptr<Buffer> gpu;
  };
  Both buffer(size_t cols) {
    return {cpu_->new_buffer(n_rows_ + 2, cols), gpu_->new_buffer(n_rows_ + 2, cols)};
  }
  Both buffer(size_t cols, const std::vector<float>& values) {
    Both made = buffer(cols);
    cpu_->write(*made.cpu, values);
    gpu_->write(*made.gpu, values);
    return made;
  }
  Both random_buffer(size_t cols, uint32_t seed) {
    return buffer(cols, random_floats(n_rows_ * cols, seed));
  }

  /// Keys or values. Those for q8_0 are ones that it holds exactly: a device may divide less
  /// exactly than the CPU, and would round one in a million to the other side.
  Both cached_buffer(DType type, size_t cols, uint32_t seed) {
    if (type != DType::q8_0) return random_buffer(cols, seed);
    std::vector<float> values = small_integers(n_rows_ * cols, seed);
    for (float& x : values) x /= 128;
    return buffer(cols, values);
  }

  /// Gates of such values: q8_0 holds the products exactly as well.
  Both gate_buffer(DType type, size_t cols, bool by_element, uint32_t seed) {
    if (type != DType::q8_0) return random_buffer(cols, seed);
    std::vector<float> values = random_floats(n_rows_ * cols, seed);
    for (size_t i = 0; i < values.size(); ++i) {
      const bool is_zero = by_element && i % 32 != 5 && values[i] < 0;
      values[i] = is_zero ? 0 : by_element ? 0.5f : std::exp2(std::round(values[i]));
    }
    return buffer(cols, values);
  }

  /// Compares the first n_rows of a buffer, relative to its largest element or, where terms cancel
  /// out, to what such a sum has for its size.
  void expect_equal(const Both& buffer, double tolerance, const std::string& what,
                    double size = 0) {
    expect_equal(buffer, n_rows_, tolerance, what, size);
  }
  void expect_equal(const Both& buffer, size_t n_rows, double tolerance, const std::string& what,
                    double size = 0) {
    std::vector<float> expected(n_rows * buffer.cpu->cols());
    std::vector<float> found(expected.size(), NAN);
    cpu_->read(*buffer.cpu, expected);
    gpu_->read(*buffer.gpu, found);
    double largest = size;
    for (const float x : expected) largest = std::max(largest, std::fabs(double{x}));
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(found[i], expected[i], tolerance * largest)
          << what << ", row " << i / buffer.cpu->cols() << ", column " << i % buffer.cpu->cols();
    }
  }

  std::unique_ptr<Backend> cpu_;
  std::unique_ptr<Backend> gpu_;
  size_t n_rows_ = 0;

 private:
  static inline std::unique_ptr<DeviceWeights> weights_;
  static inline std::string why_not_;
  std::vector<BatchRow> rows_;
  std::vector<int64_t> first_visible_;
  std::vector<uint32_t> wanted_;
  std::vector<float> angles_;
  std::vector<float> kept_angles_;
};

std::string sizes(std::initializer_list<size_t> numbers) {
  std::string text;
  for (const size_t n : numbers) text += (text.empty() ? "" : " x ") + std::to_string(n);
  return text;
}

TEST_F(VulkanOps, BuffersKeepWhatIsWritten) {
  for (const size_t cols : {1, 7, 8, 31, 257}) {
    begin(5);
    expect_equal(random_buffer(cols, 3), 0, sizes({cols}));
  }
}

TEST_F(VulkanOps, EmbedEqualsTheCpu) {
  for (const DType type : test::all_types) {
    for (size_t cols : {1, 7, 45, 256, 512}) {
      cols = test::whole_blocks(type, cols);
      const TestWeight table(device(), type, 5, cols);
      begin(9);
      const Both x = buffer(cols);
      cpu_->embed(table.tensor, 1, nullptr, *x.cpu);
      gpu_->embed(table.tensor, 1, nullptr, *x.gpu);
      expect_equal(x, 1e-6, std::string(name(type)) + sizes({cols}));
    }
  }
}

TEST_F(VulkanOps, ProjectEqualsTheCpu) {
  for (const DType type : test::all_types) {
    for (size_t cols : {1, 7, 45, 100, 256, 544, 1031}) {
      cols = test::whole_blocks(type, cols);
      for (const size_t outputs : {1, 3, 64, 131}) {
        const TestWeight w(device(), type, outputs, cols);
        const Linear linear{w.tensor, {}};
        for (const size_t n : {1, 2, 3, 5, 8, 9, 64, 70}) {
          begin(n);
          // The CPU rounds what meets quantized weights; these are left as they are.
          const Both x = buffer(cols, small_integers(n * cols, 2));
          const Both out = buffer(outputs);
          cpu_->project(*x.cpu, std::array{Projection{linear, *out.cpu}});
          gpu_->project(*x.gpu, std::array{Projection{linear, *out.gpu}});
          expect_equal(out, 2e-6, std::string(name(type)) + " " + sizes({n, cols, outputs}),
                       20 * std::sqrt(static_cast<double>(cols)));
        }
      }
    }
  }
}

TEST_F(VulkanOps, RmsNormEqualsTheCpu) {
  for (const size_t cols : {1, 7, 64, 288, 1031}) {
    const TestWeight w(device(), random_floats(cols, 4));
    for (const size_t n : {1, 3, 70}) {
      begin(n);
      const Both x = random_buffer(cols, 5);
      const Both out = buffer(cols);
      cpu_->norm(*x.cpu, {w.tensor, {}}, NormKind::rms, 1e-5f, *out.cpu);
      gpu_->norm(*x.gpu, {w.tensor, {}}, NormKind::rms, 1e-5f, *out.gpu);
      expect_equal(out, 1e-6, sizes({n, cols}));
      cpu_->norm(*x.cpu, {w.tensor, {}}, NormKind::rms, 1e-5f, *x.cpu);
      gpu_->norm(*x.gpu, {w.tensor, {}}, NormKind::rms, 1e-5f, *x.gpu);
      expect_equal(x, 1e-6, "in place, " + sizes({n, cols}));
    }
  }
}

TEST_F(VulkanOps, RopeEqualsTheCpu) {
  for (const size_t head_dim : {2, 45, 64, 80}) {
    for (const size_t n_pairs : {size_t{1}, head_dim / 2}) {
      for (const bool half_split : {false, true}) {
        std::vector<BatchRow> rows(7);
        begin(rows, n_pairs);
        const std::string what = sizes({head_dim, n_pairs}) + (half_split ? ", half split" : "");
        const Both x = random_buffer(3 * head_dim, 6);
        const Both kept = buffer(3 * head_dim);
        cpu_->rope_kept(*x.cpu, {head_dim, half_split, 0}, *kept.cpu);
        gpu_->rope_kept(*x.gpu, {head_dim, half_split, 0}, *kept.gpu);
        expect_equal(kept, 1e-6, "kept, " + what);
        cpu_->rope(*x.cpu, {head_dim, half_split, 0});
        gpu_->rope(*x.gpu, {head_dim, half_split, 0});
        expect_equal(x, 1e-6, what);
      }
    }
  }
}

TEST_F(VulkanOps, SigmoidEqualsTheCpu) {
  for (const size_t cols : {1, 12, 75}) {
    begin(5);
    const Both gate = random_buffer(cols, 8);
    cpu_->activate(*gate.cpu, nullptr, Activation::sigmoid);
    gpu_->activate(*gate.gpu, nullptr, Activation::sigmoid);
    expect_equal(gate, 1e-6, sizes({cols}));
  }
}

TEST_F(VulkanOps, SwigluAndAddEqualTheCpu) {
  for (const size_t cols : {1, 7, 256, 1031}) {
    begin(3);
    const Both x = buffer(cols, random_floats(3 * cols, 9, 4));
    const Both y = random_buffer(cols, 10);
    cpu_->activate(*x.cpu, y.cpu.get(), Activation::silu);
    gpu_->activate(*x.gpu, y.gpu.get(), Activation::silu);
    expect_equal(x, 1e-6, "swiglu, " + sizes({cols}));
    cpu_->add(*x.cpu, *y.cpu, 1);
    gpu_->add(*x.gpu, *y.gpu, 1);
    expect_equal(x, 1e-6, "add, " + sizes({cols}));
  }
}

TEST_F(VulkanOps, KeepWantedEqualsTheCpu) {
  begin(std::vector<BatchRow>(7), 1, {0, 3, 6});
  const Both x = random_buffer(45, 3);
  const Both out = buffer(45);
  cpu_->keep_wanted(*x.cpu, *out.cpu);
  gpu_->keep_wanted(*x.gpu, *out.gpu);
  expect_equal(out, 3, 0, "rows 0, 3 and 6");
}

TEST_F(VulkanOps, LikeliestEqualTheCpu) {
  for (const size_t cols : {1, 7, 1000, 1024, 1025, 5003, 150001}) {
    for (const size_t n : {1, 3}) {
      if (n * cols * sizeof(float) > device().device.limits.storage_range) continue;  // forced
      begin(n);
      std::vector<float> values = random_floats(n * cols, 14, 4);
      for (size_t i = 0; i < values.size(); ++i) {
        if (i % 3 == 0) values[i] = std::round(values[i]);  // equal ones, of which some are -0
        if (i % 101 == 5) values[i] = i % 2 == 0 ? NAN : -NAN;
        if (i % 997 == 6) values[i] = i % 2 == 0 ? INFINITY : -INFINITY;
      }
      if (n == 3) std::fill_n(values.begin() + static_cast<std::ptrdiff_t>(cols), cols, NAN);
      const Both x = buffer(cols, values);
      for (const size_t k : {1, 2, 40, 256, 300}) {
        if (k > cols) continue;
        std::vector<Candidate> expected(n * k);
        std::vector<Candidate> found(n * k);
        cpu_->likeliest(*x.cpu, k, expected);
        gpu_->likeliest(*x.gpu, k, found);
        for (size_t i = 0; i < n * k; ++i) {
          ASSERT_EQ(found[i].token, expected[i].token) << sizes({n, cols, k}) << ", place " << i;
          if (std::isnan(expected[i].logit)) {
            ASSERT_TRUE(std::isnan(found[i].logit));
          } else {
            ASSERT_EQ(found[i].logit, expected[i].logit);
          }
        }
      }
    }
  }
}

using Gate = AttentionGate;

/// Attention over a cache that chunks of several sequences fill one after the other.
struct AttendCase {
  size_t n_heads;
  size_t n_kv_heads;
  size_t head_dim;
  size_t window;  // 0: none
  size_t n_kept;
  Gate gate = {};
};

constexpr Gate values_by_head = {Gate::Source::value, Gate::Placement::value,
                                 Gate::Granularity::head};
constexpr Gate values_by_element = {Gate::Source::value, Gate::Placement::value,
                                    Gate::Granularity::element};
constexpr Gate outputs_by_head = {Gate::Source::value, Gate::Placement::output,
                                  Gate::Granularity::head};
constexpr Gate outputs_by_element = {Gate::Source::value, Gate::Placement::output,
                                     Gate::Granularity::element};

class VulkanAttend : public VulkanOps, public testing::WithParamInterface<AttendCase> {};

TEST_P(VulkanAttend, EqualsTheCpu) {
  const AttendCase& c = GetParam();
  for (const DType type : {DType::f16, DType::f32, DType::q8_0}) {
    if (c.head_dim % block_elements(type) != 0) continue;
    const CacheShape shape = {.kind = 0,
                              .n_layers = 2,
                              .n_slots = 3,
                              .n_kept = c.n_kept,
                              .n_ring = c.window > 0 ? 2 * page_positions : 5 * page_positions,
                              .n_kv_heads = c.n_kv_heads,
                              .head_dim = c.head_dim,
                              .type = type};
    const uint64_t head_bytes = shape.n_slots * shape.n_pages() * shape.page_bytes();
    if (head_bytes > device().device.limits.storage_range) continue;  // forced
    const auto on_cpu = cpu_->new_cache(shape);
    const auto on_gpu = gpu_->new_cache(shape);
    const size_t layer = 1;
    uint32_t seed = 20;
    std::array<int64_t, 3> next = {};
    // Prefill of one slot in chunks, slots together, then single tokens far behind.
    const std::vector<std::array<size_t, 3>> batches = {
        {1, 0, 0},   {2, 3, 0},   {40, 1, 1}, {0, 200, 0}, {0, 200, 0}, {1, 1, 1},
        {0, 200, 9}, {0, 100, 0}, {0, 1, 0},  {1, 1, 0},   {0, 3, 0}};
    for (const auto& counts : batches) {
      std::vector<BatchRow> rows;
      std::vector<int64_t> first_visible;
      for (uint32_t slot = 0; slot < 3; ++slot) {
        for (size_t i = 0; i < counts[slot]; ++i, ++next[slot]) {
          const auto keep = static_cast<int64_t>(c.n_kept);
          const auto window = static_cast<int64_t>(c.window);
          const int64_t first = window > 0 ? std::max(keep, next[slot] - window + 1) : 0;
          rows.push_back({0, slot, next[slot]});
          first_visible.push_back(first);
        }
      }
      begin(rows, 1, {}, first_visible);
      const std::string what =
          sizes({counts[0], counts[1], counts[2]}) + " rows, " + std::string(name(type));
      const Both k = cached_buffer(type, c.n_kv_heads * c.head_dim, seed++);
      const Both v = cached_buffer(type, c.n_kv_heads * c.head_dim, seed++);
      const Both q = random_buffer(c.n_heads * c.head_dim, seed++);
      const Both q_kept = random_buffer(c.n_heads * c.head_dim, seed++);
      const Both out = buffer(c.n_heads * c.head_dim);
      const bool keeps = c.n_kept > 0;
      const bool on_outputs = c.gate && c.gate.placement == Gate::Placement::output;
      const bool on_values = c.gate && c.gate.placement == Gate::Placement::value;
      const bool by_element = c.gate.granularity == Gate::Granularity::element;
      const size_t n_gates =
          (on_outputs ? c.n_heads : c.n_kv_heads) * (by_element ? c.head_dim : 1);
      const Both gate = gate_buffer(type, n_gates, by_element, seed++);
      const auto run = [&](Backend& ops, Cache& cache, const auto& side) {
        const Buffer* kept = keeps ? side(q_kept) : nullptr;
        ops.write_cache(cache, layer, *side(k), *side(v), on_values ? side(gate) : nullptr);
        ops.attend(*side(q), kept, cache, layer, {1 / std::sqrt(static_cast<float>(c.head_dim))},
                   on_outputs ? side(gate) : nullptr, *side(out));
      };
      run(*cpu_, *on_cpu, [](const Both& b) { return b.cpu.get(); });
      run(*gpu_, *on_gpu, [](const Both& b) { return b.gpu.get(); });
      expect_equal(out, 2e-5, what);
      if (HasFatalFailure()) return;
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
        AttendCase{6, 2, 32, 200, 4, outputs_by_element}),
    [](const auto& row) {
      const AttendCase& c = row.param;
      std::ostringstream name;
      name << c.n_heads << "_over_" << c.n_kv_heads << "_heads_of_" << c.head_dim << "_window_"
           << c.window << "_kept_" << c.n_kept;
      if (c.gate) {
        name << '_' << vga::name(c.gate.placement) << "_gate_by_" << vga::name(c.gate.granularity);
      }
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
  begin(rows, 1, {}, first_visible);
  std::vector<float> values = random_floats(n_rows_ * 2 * head_dim, 1);
  std::fill_n(values.begin() + 64, 32, 0.f);     // no step at all
  std::fill_n(values.begin() + 96, 32, 1e-20f);  // one too small for f16
  const Both v = buffer(2 * head_dim, values);
  const Both out = buffer(2 * head_dim);
  gpu_->write_cache(*cache, 0, *v.gpu, *v.gpu, nullptr);
  gpu_->attend(*v.gpu, nullptr, *cache, 0, {0.1f}, nullptr, *out.gpu);
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

TEST_F(VulkanOps, ActivationsThatAreNoNumbersStayVisible) {
  begin(1);
  const TestWeight w(device(), DType::q8_0, 3, 64);
  const Linear linear{w.tensor, {}};
  std::vector<float> values(64, 1);
  values[40] = NAN;
  const Both x = buffer(64, values);
  const Both out = buffer(3);
  gpu_->project(*x.gpu, std::array{Projection{linear, *out.gpu}});
  std::vector<float> found(3);
  gpu_->read(*out.gpu, found);
  for (const float y : found) EXPECT_FALSE(std::isfinite(y));
}

}  // namespace
}  // namespace vga::vulkan
