/// Delta nets on a device, over batches of several sequences, against the CPU's scalar kernels.
/// Skipped where there is no device.

#include "vga/config.h"
#include "vga/error.h"
#include "vulkan_ops.h"

namespace vga::vulkan {
namespace {

class VulkanDelta : public VulkanOps, public testing::WithParamInterface<DeltaNet> {
 protected:
  static constexpr size_t n_layers = 2;
  static constexpr size_t n_slots = 3;

  void SetUp() override {
    VulkanOps::SetUp();
    if (IsSkipped()) return;
    if (shape(1).n_floats() * sizeof(float) > device().device.limits.storage_range) {
      is_refused_ = true;  // under a forced limit
      EXPECT_THROW(gpu_->new_state(shape(1)), Error);
      return;
    }
    state_ = states(n_slots);
    const size_t cols = net().conv_cols();
    taps_ = std::make_unique<TestWeight>(
        device(), test::random_floats(cols * net().conv_size, 3, 0.6f), cols);
  }

  static const DeltaNet& net() { return GetParam(); }
  static StateShape shape(size_t slots) { return {n_layers, slots, net()}; }

  struct States {
    std::unique_ptr<State> cpu;
    std::unique_ptr<State> gpu;
  };
  States states(size_t slots) {
    return {cpu_->new_state(shape(slots)), gpu_->new_state(shape(slots))};
  }
  void copy(const States& from, size_t from_slot, const States& to, size_t to_slot) {
    cpu_->copy_state(*from.cpu, from_slot, *to.cpu, to_slot);
    gpu_->copy_state(*from.gpu, from_slot, *to.gpu, to_slot);
  }

  /// A batch with a row of each of these slots, in their order; each slot goes on where it ended.
  void begin_rows(std::initializer_list<uint32_t> slots) {
    std::vector<BatchRow> rows;
    for (const uint32_t slot : slots) rows.push_back({0, slot, next_[slot]++});
    begin(std::move(rows));
  }

  /// Convolves, and lets the delta rule run over what that gives; what comes out of the latter.
  Both run(size_t layer, uint32_t seed, const std::string& what) {
    const Both qkv = random_buffer(net().conv_cols(), seed);
    cpu_->convolve(*qkv.cpu, taps_->tensor, *state_.cpu, layer);
    gpu_->convolve(*qkv.gpu, taps_->tensor, *state_.gpu, layer);
    expect_equal(qkv, 2e-6, "convolved, " + what);
    Both decay = random_buffer(net().n_value_heads, seed + 1);
    Both strength = random_buffer(net().n_value_heads, seed + 2);
    cpu_->activate(*decay.cpu, nullptr, Activation::sigmoid);
    gpu_->activate(*decay.gpu, nullptr, Activation::sigmoid);
    cpu_->activate(*strength.cpu, nullptr, Activation::sigmoid);
    gpu_->activate(*strength.gpu, nullptr, Activation::sigmoid);
    Both out = buffer(net().value_size());
    cpu_->delta_rule(*qkv.cpu, *decay.cpu, *strength.cpu, *state_.cpu, layer, *out.cpu);
    gpu_->delta_rule(*qkv.gpu, *decay.gpu, *strength.gpu, *state_.gpu, layer, *out.gpu);
    expect_equal(out, 5e-6, what);
    return out;
  }

  std::vector<float> read(const Both& buffer) {
    std::vector<float> values(n_rows_ * buffer.gpu->cols());
    gpu_->read(*buffer.gpu, values);
    return values;
  }

  bool is_refused_ = false;  // a state is more than the device binds
  std::array<int64_t, n_slots> next_{};
  std::unique_ptr<TestWeight> taps_;
  States state_;
};

TEST_P(VulkanDelta, EqualsTheCpu) {
  if (is_refused_) return;
  begin_rows({0, 0, 0, 0, 0});
  run(1, 10, "the first rows");
  run(0, 20, "another layer");
  begin_rows({2, 0, 2, 2, 0, 1});
  run(1, 30, "rows of three sequences");
  run(0, 40, "in another layer");
  begin_rows({1});
  run(1, 50, "one row");
  begin_rows({0, 1, 2});
  run(1, 60, "a row of each");
  next_[1] = 0;
  begin_rows({1, 0, 1, 1});
  run(1, 70, "a sequence from its beginning");
}

TEST_P(VulkanDelta, CopiesGoOnAlike) {
  if (is_refused_) return;
  begin_rows({1, 1, 1, 0});
  for (size_t layer = 0; layer < n_layers; ++layer) run(layer, 10, "before");
  const States copied = states(1);
  copy(state_, 1, copied, 0);
  std::array<std::vector<float>, n_layers> once;
  begin_rows({1, 0, 1});
  for (size_t layer = 0; layer < n_layers; ++layer) once[layer] = read(run(layer, 20, "once"));
  copy(copied, 0, state_, 1);
  copy(copied, 0, state_, 0);  // the same in both, so that all rows of the batch are compared
  begin_rows({1, 0, 1});
  std::vector<float> again = read(run(0, 20, "again"));
  const auto row = static_cast<std::ptrdiff_t>(net().value_size());
  EXPECT_TRUE(std::equal(again.begin(), again.begin() + row, once[0].begin()));
  EXPECT_TRUE(std::equal(again.begin() + 2 * row, again.end(), once[0].begin() + 2 * row));
  EXPECT_FALSE(std::equal(again.begin() + row, again.begin() + 2 * row, once[0].begin() + row));
}

INSTANTIATE_TEST_SUITE_P(
    Nets, VulkanDelta,
    testing::Values(
        DeltaNet{.n_key_heads = 2, .n_value_heads = 6, .head_dim = 16, .conv_size = 4},
        DeltaNet{
            .n_key_heads = 2, .n_value_heads = 6, .head_dim = 24, .conv_size = 5, .grouped = true},
        DeltaNet{.n_key_heads = 3, .n_value_heads = 3, .head_dim = 7, .conv_size = 8},
        DeltaNet{
            .n_key_heads = 2, .n_value_heads = 4, .head_dim = 128, .conv_size = 4, .grouped = true},
        DeltaNet{.n_key_heads = 1, .n_value_heads = 2, .head_dim = 300, .conv_size = 2},
        DeltaNet{.n_key_heads = 1, .n_value_heads = 1, .head_dim = 512, .conv_size = 3}),
    [](const auto& row) {
      const DeltaNet& net = row.param;
      return std::to_string(net.n_key_heads) + "_" + std::to_string(net.n_value_heads) +
             "_heads_of_" + std::to_string(net.head_dim) + (net.grouped ? "_grouped" : "");
    });

TEST_F(VulkanOps, DecayEqualsTheCpu) {
  for (const size_t cols : {1, 6, 33}) {
    begin(5);
    const TestWeight bias(device(), test::random_floats(cols, 3));
    std::vector<float> scales = test::random_floats(cols, 4);
    for (float& scale : scales) scale = -std::exp(scale);
    const TestWeight scale(device(), scales);
    for (const float size : {1.f, 10.f, 100.f}) {
      const Both x = buffer(cols, test::random_floats(5 * cols, 5, size));
      cpu_->decay(*x.cpu, bias.tensor, scale.tensor);
      gpu_->decay(*x.gpu, bias.tensor, scale.tensor);
      expect_equal(x, 1e-6, sizes({cols, static_cast<size_t>(size)}));
    }
  }
}

}  // namespace
}  // namespace vga::vulkan
