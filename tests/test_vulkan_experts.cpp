/// Mixtures of experts on a device against the CPU's scalar kernels. Skipped where there is no
/// device.

#include <numeric>

#include "vga/config.h"
#include "vulkan_ops.h"

namespace vga::vulkan {
namespace {

class VulkanExperts : public VulkanOps {
 protected:
  /// What a router may give: some of n experts for each row, ascending, and what they weigh. Nobody
  /// takes the first one.
  Both routed_buffer(size_t n, size_t n_used) {
    std::vector<float> values;
    std::mt19937 random(static_cast<uint32_t>(n * n_used + n_rows_));
    for (size_t row = 0; row < n_rows_; ++row) {
      std::vector<float> all(n - 1);
      std::iota(all.begin(), all.end(), 1.f);
      std::ranges::sample(all, std::back_inserter(values), static_cast<std::ptrdiff_t>(n_used),
                          random);
      const auto weights = random_floats(n_used, static_cast<uint32_t>(row + 1));
      values.insert(values.end(), weights.begin(), weights.end());
    }
    return buffer(2 * n_used, values);
  }
};

TEST_F(VulkanExperts, RouteEqualsTheCpu) {
  for (const auto& [n, n_used] :
       {std::pair<size_t, size_t>{1, 1}, {6, 3}, {8, 8}, {131, 8}, {512, 10}, {4096, 64}}) {
    const TestWeight bias(device(), random_floats(n, 7, 0.1f));
    for (const size_t n_rows : {1, 7}) {
      begin(n_rows);
      for (const bool tied : {false, true}) {
        std::vector<float> logits = random_floats(n_rows * n, 8, 3);
        if (tied) {
          for (float& logit : logits) logit = std::round(logit);
        }
        const Both x = buffer(n, logits);
        const Both out = buffer(2 * n_used);
        for (const auto router : {Experts::Router::softmax, Experts::Router::sigmoid}) {
          for (const bool normalised : {false, true}) {
            for (const bool biased : {false, true}) {
              const Experts experts = {.n = n,
                                       .n_used = n_used,
                                       .router = router,
                                       .normalised = normalised,
                                       .scale = 1.5f,
                                       .choice_bias = biased};
              const Tensor counts = biased ? bias.tensor : Tensor();
              cpu_->route(*x.cpu, counts, experts, *out.cpu);
              gpu_->route(*x.gpu, counts, experts, *out.gpu);
              std::vector<float> expected(n_rows * 2 * n_used);
              std::vector<float> found(expected.size());
              cpu_->read(*out.cpu, expected);
              gpu_->read(*out.gpu, found);
              for (size_t i = 0; i < expected.size(); ++i) {
                const bool is_weight = i / n_used % 2 == 1;
                const float allowed = is_weight ? 5e-6f * expected[i] : 0;
                ASSERT_NEAR(found[i], expected[i], allowed)
                    << sizes({n, n_used, n_rows}) << ", place " << i << (tied ? ", tied" : "")
                    << (router == Experts::Router::softmax ? ", softmax" : ", sigmoid")
                    << (normalised ? ", normalised" : "") << (biased ? ", biased" : "");
              }
            }
          }
        }
      }
    }
  }
}

// Whatever the logits are: experts that there are, and the fault stays visible.
TEST_F(VulkanExperts, LogitsThatAreNoNumbersStayVisible) {
  begin(1);
  std::vector<float> logits = random_floats(8, 3);
  logits[5] = NAN;
  const Both x = buffer(8, logits);
  const Both out = buffer(6);
  const Experts experts = {.n = 8, .n_used = 3};
  gpu_->route(*x.gpu, {}, experts, *out.gpu);
  std::vector<float> found(6);
  gpu_->read(*out.gpu, found);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(found[i] >= 0 && found[i] < 8) << found[i];
    EXPECT_FALSE(std::isfinite(found[3 + i]));
  }
}

// Some seconds: a driver that compiles for the CPU has two products of each type to compile.
TEST_F(VulkanExperts, ProjectExpertsEqualsTheCpu) {
  constexpr size_t n = 5;
  constexpr size_t n_used = 3;
  for (const DType type : test::all_types) {
    // Few rows, and as many as each height of tiles is for.
    const std::vector<size_t> counts = type == DType::q8_0
                                           ? std::vector<size_t>{1, 3, 13, 16, 27, 70}
                                           : std::vector<size_t>{1, 70};
    for (size_t inputs : {16, 272}) {
      inputs = test::whole_blocks(type, inputs);
      for (const size_t outputs : {16, 80}) {
        const TestWeight one(device(), type, n * outputs, inputs);
        const TestWeight other(device(), type, n * 2 * outputs, inputs);
        for (const size_t n_rows : counts) {
          begin(n_rows);
          const Both routed = routed_buffer(n, n_used);
          for (const bool shared : {true, false}) {
            const size_t cols = shared ? inputs : n_used * inputs;
            // The CPU rounds what meets quantized weights; these are left as they are.
            const Both x = buffer(cols, small_integers(n_rows * cols, 2));
            const Both out = buffer(n_used * outputs);
            const Both wide = buffer(n_used * 2 * outputs);
            cpu_->project_experts(*x.cpu, *routed.cpu,
                                  std::array{ExpertProjection{one.tensor, *out.cpu},
                                             ExpertProjection{other.tensor, *wide.cpu}});
            gpu_->project_experts(*x.gpu, *routed.gpu,
                                  std::array{ExpertProjection{one.tensor, *out.gpu},
                                             ExpertProjection{other.tensor, *wide.gpu}});
            const std::string what = std::string(name(type)) + " " +
                                     sizes({n_rows, inputs, outputs}) +
                                     (shared ? "" : ", each its own");
            const double size = 20 * std::sqrt(static_cast<double>(inputs));
            expect_equal(out, 2e-6, what, size);
            expect_equal(wide, 2e-6, what + ", the second", size);
          }
        }
      }
    }
  }
}

TEST_F(VulkanExperts, MixExpertsEqualsTheCpu) {
  for (const size_t cols : {1, 7, 16, 257}) {
    for (const size_t n_used : {1, 3, 10}) {
      begin(9);
      const Both routed = routed_buffer(12, n_used);
      const Both y = random_buffer(n_used * cols, 4);
      const Both out = buffer(cols);
      cpu_->mix_experts(*y.cpu, *routed.cpu, *out.cpu);
      gpu_->mix_experts(*y.gpu, *routed.gpu, *out.gpu);
      expect_equal(out, 1e-6, sizes({cols, n_used}));
    }
  }
}

TEST_F(VulkanExperts, ScaleRowsEqualsTheCpu) {
  for (const size_t cols : {1, 7, 16, 257}) {
    begin(9);
    const Both x = random_buffer(cols, 4);
    const Both factors = random_buffer(1, 5);
    cpu_->scale_rows(*x.cpu, *factors.cpu);
    gpu_->scale_rows(*x.gpu, *factors.gpu);
    expect_equal(x, 0, sizes({cols}));
  }
}

}  // namespace
}  // namespace vga::vulkan
