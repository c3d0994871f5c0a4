/// The Vulkan backend's ops, one by one, against those of the CPU's scalar kernels. Skipped where
/// there is no device.

#include <cstring>
#include <numbers>

#include "vga/config.h"
#include "vulkan/commands.h"
#include "vulkan/vulkan_buffer.h"
#include "vulkan_ops.h"

namespace vga::vulkan {
namespace {

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
      for (const float scale : {1.f, 11.3f}) {
        cpu_->embed(table.tensor, scale, nullptr, *x.cpu);
        gpu_->embed(table.tensor, scale, nullptr, *x.gpu);
        expect_equal(x, 1e-6, std::string(name(type)) + sizes({cols}));
      }
    }
  }
}

TEST_F(VulkanOps, EmbedWithPositionsEqualsTheCpu) {
  for (const size_t cols : {1, 45, 256}) {
    const TestWeight table(device(), DType::f16, 5, cols);
    const TestWeight positions(device(), DType::f32, 20, cols);
    begin({{4, 0, 0}, {0, 0, 1}, {3, 1, 18}, {2, 1, 19}});
    const Both x = random_buffer(cols, 3);
    cpu_->embed(table.tensor, 0.5f, &positions.tensor, *x.cpu);
    gpu_->embed(table.tensor, 0.5f, &positions.tensor, *x.gpu);
    expect_equal(x, 1e-6, sizes({cols}));
  }
}

TEST_F(VulkanOps, ProjectEqualsTheCpu) {
  for (const DType type : test::all_types) {
    for (size_t cols : {1, 7, 45, 100, 256, 544, 1031}) {
      cols = test::whole_blocks(type, cols);
      for (const size_t outputs : {1, 3, 64, 131}) {
        const TestWeight w(device(), type, outputs, cols);
        const Linear linear = {w.tensor, {}, {}};
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

TEST_F(VulkanOps, ProjectWithBiasScaleAndCapEqualsTheCpu) {
  constexpr size_t cols = 256;
  for (const DType type : test::all_types) {
    for (const size_t outputs : {1, 3, 131}) {
      const TestWeight w(device(), type, outputs, cols);
      const TestWeight bias(device(), random_floats(outputs, 7, 100));
      const Linear linear = {w.tensor, bias.tensor, {}};
      const Linear plain = {w.tensor, {}, {}};
      for (const size_t n : {1, 7, 9, 70}) {
        begin(n);
        const Both x = buffer(cols, small_integers(n * cols, 2));
        const Both out = buffer(outputs);
        const auto run = [&](const Linear& layer, float scale, float cap, const char* what,
                             double size) {
          cpu_->project(*x.cpu, std::array{Projection{layer, *out.cpu, scale, cap}});
          gpu_->project(*x.gpu, std::array{Projection{layer, *out.gpu, scale, cap}});
          expect_equal(out, 2e-6, what + std::string(name(type)) + " " + sizes({n, outputs}), size);
        };
        run(linear, 1, 0, "bias, ", 320);
        run(linear, 0.25f, 0, "bias and scale, ", 80);
        // What the cap makes small, it makes wrong by no more than before.
        run(linear, 0.25f, 30, "bias, scale and cap, ", 80);
        run(plain, 1, 5, "cap, ", 320);
      }
    }
  }
}

TEST_F(VulkanOps, ProjectWithLowRankChangesEqualsTheCpu) {
  constexpr size_t cols = 96;
  for (const DType type : {DType::f32, DType::f16}) {
    for (const size_t rank : {1, 5, 16, 37}) {
      for (const size_t outputs : {3, 64, 131}) {
        const TestWeight w(device(), DType::q8_0, outputs, cols);
        const TestWeight bias(device(), random_floats(outputs, 7, 100));
        const TestWeight a(device(), type, rank, cols);
        const TestWeight b(device(), type, outputs, rank);
        const Linear changed = {w.tensor, bias.tensor, {a.tensor, b.tensor}};
        const Linear plain = {w.tensor, bias.tensor, {}};
        for (const size_t n : {1, 4, 9, 70}) {
          begin(n);
          const Both x = buffer(cols, small_integers(n * cols, 2));
          const Both out = buffer(outputs);
          const Both scaled = buffer(outputs);
          const Both unchanged = buffer(outputs);
          cpu_->project(*x.cpu,
                        std::array{Projection{changed, *out.cpu}, Projection{plain, *unchanged.cpu},
                                   Projection{changed, *scaled.cpu, 0.25f, 30}});
          gpu_->project(*x.gpu,
                        std::array{Projection{changed, *out.gpu}, Projection{plain, *unchanged.gpu},
                                   Projection{changed, *scaled.gpu, 0.25f, 30}});
          const std::string what = std::string(name(type)) + " " + sizes({n, rank, outputs});
          const double size = 200 * std::sqrt(static_cast<double>(rank));
          expect_equal(out, 2e-6, what, size);
          expect_equal(unchanged, 2e-6, what + ", unchanged", 320);
          expect_equal(scaled, 2e-6, what + ", scaled", size);
        }
      }
    }
  }
}

// Two weights whose rows take turns in the file.
TEST_F(VulkanOps, ProjectOfRowsThatTakeTurnsEqualsTheCpu) {
  for (const DType type : {DType::f32, DType::q8_0, DType::q4_k, DType::q6_k}) {
    for (const auto& [turn, n_turns] : {std::pair<size_t, size_t>{1, 7}, {3, 5}, {64, 3}}) {
      const size_t cols = test::whole_blocks(type, 45);
      const size_t outputs = turn * n_turns;
      TestWeight both(device(), type, 2 * outputs, cols);
      Tensor one = both.tensor.part(0, outputs);
      Tensor other = both.tensor.part(turn, outputs);
      one.turn = turn;
      other.turn = turn;
      vulkan::load(device().device, device().placed, std::array{&one, &other, &both.tensor}, 0,
                   nullptr);
      begin(3);
      const Both x = buffer(cols, small_integers(3 * cols, 2));
      for (const Tensor& tensor : {one, other}) {
        const Both out = buffer(outputs);
        const Linear linear = {tensor, {}, {}};
        cpu_->project(*x.cpu, std::array{Projection{linear, *out.cpu}});
        gpu_->project(*x.gpu, std::array{Projection{linear, *out.gpu}});
        expect_equal(out, 2e-6, std::string(name(type)) + " " + sizes({turn, n_turns}),
                     20 * std::sqrt(static_cast<double>(cols)));
      }
    }
  }
}

TEST_F(VulkanOps, NormEqualsTheCpu) {
  for (const size_t cols : {1, 7, 64, 288, 1031}) {
    const TestWeight w(device(), random_floats(cols, 4));
    const TestWeight b(device(), random_floats(cols, 5));
    const Norm with_bias = {w.tensor, b.tensor};
    const Norm plain = {w.tensor, {}};
    for (const size_t n : {1, 3, 70}) {
      for (const size_t groups : {1, 3}) {
        begin(n);
        for (const NormKind kind : {NormKind::rms, NormKind::layer}) {
          const Norm& norm = kind == NormKind::rms ? plain : with_bias;
          const std::string what =
              (kind == NormKind::rms ? "rms, " : "layer, ") + sizes({n, groups, cols});
          // Far from zero, so that the mean counts.
          std::vector<float> values = random_floats(n * groups * cols, 6);
          for (float& value : values) value += 3;
          const Both x = buffer(groups * cols, values);
          const Both out = buffer(groups * cols);
          cpu_->norm(*x.cpu, norm, kind, 1e-5f, *out.cpu);
          gpu_->norm(*x.gpu, norm, kind, 1e-5f, *out.gpu);
          expect_equal(out, 2e-6, what);
          cpu_->norm(*x.cpu, norm, kind, 1e-5f, *x.cpu);
          gpu_->norm(*x.gpu, norm, kind, 1e-5f, *x.gpu);
          expect_equal(x, 2e-6, "in place, " + what);
        }
      }
    }
  }
}

TEST_F(VulkanOps, RopeEqualsTheCpu) {
  for (const size_t head_dim : {2, 45, 64, 80}) {
    for (const size_t n_pairs : {size_t{1}, head_dim / 2}) {
      for (const bool half_split : {false, true}) {
        for (size_t table = 0; table < max_rope_tables; ++table) {
          begin(std::vector<BatchRow>(7), {.n_pairs = n_pairs});
          const RopeSpec spec = {head_dim, half_split, table};
          const std::string what =
              sizes({head_dim, n_pairs, table}) + (half_split ? ", half split" : "");
          const Both x = random_buffer(3 * head_dim, 6);
          const Both kept = buffer(3 * head_dim);
          cpu_->rope_kept(*x.cpu, spec, *kept.cpu);
          gpu_->rope_kept(*x.gpu, spec, *kept.gpu);
          expect_equal(kept, 1e-6, "kept, " + what);
          cpu_->rope(*x.cpu, spec);
          gpu_->rope(*x.gpu, spec);
          expect_equal(x, 1e-6, what);
        }
      }
    }
  }
}

TEST_F(VulkanOps, ActivateEqualsTheCpu) {
  constexpr std::array kinds = {Activation::silu, Activation::gelu_tanh, Activation::gelu,
                                Activation::relu, Activation::sigmoid};
  for (const size_t cols : {1, 7, 256, 1031}) {
    begin(3);
    for (const Activation kind : kinds) {
      const std::string what =
          "kind " + std::to_string(static_cast<int>(kind)) + ", " + sizes({cols});
      std::vector<float> values = random_floats(3 * cols, 9, 4);
      for (size_t i = 0; i < values.size(); i += 11) values[i] *= 30;  // where curves are flat
      const Both x = buffer(cols, values);
      cpu_->activate(*x.cpu, nullptr, kind);
      gpu_->activate(*x.gpu, nullptr, kind);
      // Small results count as well: each is as good as its size, or as those near 0.
      expect_equal(x, 1e-6, what);
      const Both gate = buffer(cols, random_floats(3 * cols, 9, 4));
      const Both up = random_buffer(cols, 10);
      cpu_->activate(*gate.cpu, up.cpu.get(), kind);
      gpu_->activate(*gate.gpu, up.gpu.get(), kind);
      expect_equal(gate, 1e-6, "times up, " + what);
    }
  }
}

// Behind a row there are zeros, whatever an op makes of them: a product reads them as well.
TEST_F(VulkanOps, ActivateLeavesZerosBehindTheRows) {
  begin(2);
  const Both x = buffer(5, random_floats(10, 9));
  gpu_->activate(*x.gpu, nullptr, Activation::sigmoid);
  const auto& buffer = static_cast<const VulkanBuffer&>(*x.gpu);
  Memory host(device().device, 2 * 8 * sizeof(float), Memory::Kind::readback, "rows");
  Commands commands(device().device);
  gpu_->wait_for_all();
  copy(commands, buffer.rows_from(0, 2), whole(host));
  wait(commands, submit(commands));
  std::array<float, 16> found;
  std::memcpy(found.data(), host.mapped, sizeof found);
  for (size_t i = 0; i < found.size(); ++i) {
    if (i % 8 >= 5) {
      EXPECT_EQ(found[i], 0) << i;
    } else {
      EXPECT_GT(found[i], 0) << i;
    }
  }
}

// The approximation of erf, next to the numbers of double precision.
TEST_F(VulkanOps, GeluIsGoodToAMillionth) {
  begin(1);
  std::vector<float> values;
  for (int i = -4000; i <= 4000; ++i) values.push_back(static_cast<float>(i) / 500);
  const Both x = buffer(values.size(), values);
  gpu_->activate(*x.gpu, nullptr, Activation::gelu);
  std::vector<float> found(values.size());
  gpu_->read(*x.gpu, found);
  for (size_t i = 0; i < values.size(); ++i) {
    const double v = values[i];
    ASSERT_NEAR(found[i], 0.5 * v * std::erfc(-v / std::numbers::sqrt2), 1e-6) << v;
  }
}

TEST_F(VulkanOps, AddEqualsTheCpu) {
  for (const size_t cols : {1, 7, 256, 1031}) {
    begin(3);
    const Both x = buffer(cols, random_floats(3 * cols, 9, 4));
    const Both y = random_buffer(cols, 10);
    for (const float factor : {1.f, 0.22f}) {
      cpu_->add(*x.cpu, *y.cpu, factor);
      gpu_->add(*x.gpu, *y.gpu, factor);
      expect_equal(x, 1e-6, sizes({cols}));
    }
  }
}

TEST_F(VulkanOps, KeepWantedEqualsTheCpu) {
  begin(std::vector<BatchRow>(7), {.wanted = {0, 3, 6}});
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

TEST_F(VulkanOps, ActivationsThatAreNoNumbersStayVisible) {
  begin(1);
  const TestWeight w(device(), DType::q8_0, 3, 64);
  std::vector<float> values(64, 1);
  values[40] = NAN;
  const Both x = buffer(64, values);
  const Both out = buffer(3);
  const Linear linear = {w.tensor, {}, {}};
  gpu_->project(*x.gpu, std::array{Projection{linear, *out.gpu}});
  std::vector<float> found(3);
  gpu_->read(*out.gpu, found);
  for (const float y : found) EXPECT_FALSE(std::isfinite(y));
}

}  // namespace
}  // namespace vga::vulkan
