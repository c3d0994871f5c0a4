#pragma once

#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "compute/device_choice.h"
#include "cpu/cpu_backend.h"
#include "encoded.h"
#include "vulkan/device_model.h"
#include "vulkan/vulkan_backend.h"
#include "vulkan_device.h"

/// What tests of the Vulkan backend's ops share: they run on a device and on the CPU's scalar
/// kernels.
namespace vga::vulkan {

using test::Encoded;
using test::random_floats;
using test::small_integers;

/// A weight of any bits, or a vector of numbers, on the device.
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
  /// Vectors, and matrices of convolutions, are read as floats and lie like those.
  TestWeight(DeviceWeights& on, std::vector<float> values, size_t rows = 1)
      : device(on),
        floats(std::move(values)),
        tensor{.type = DType::f32,
               .rows = rows,
               .cols = floats.size() / rows,
               .data = reinterpret_cast<const std::byte*>(floats.data())} {
    load();
  }
  TestWeight(const TestWeight&) = delete;
  TestWeight& operator=(const TestWeight&) = delete;
  /// Drivers do not like many pieces of memory: the last one made goes first.
  ~TestWeight() {
    device.placed.memory.resize(n_memory);
    device.placed.weights.resize(n_weights);
  }

  void load() {
    Tensor* const tensors[] = {&tensor};
    vulkan::load(device.device, device.placed, tensors, 0, nullptr);
  }

  DeviceWeights& device;
  size_t n_memory = device.placed.memory.size();
  size_t n_weights = device.placed.weights.size();
  Encoded bytes = Encoded(DType::f32, {}, 1);  // of a matrix
  std::vector<float> floats;                   // of a vector, or of taps
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
  struct Rest {
    size_t n_pairs = 1;
    std::vector<uint32_t> wanted = {};
    std::vector<int64_t> first_visible = {};  // (kinds, rows); none: everything, in one kind
  };
  void begin(std::vector<BatchRow> rows) { begin(std::move(rows), Rest{}); }
  void begin(std::vector<BatchRow> rows, Rest rest) {
    rows_ = std::move(rows);
    rest_ = std::move(rest);
    n_rows_ = rows_.size();
    if (rest_.first_visible.empty()) rest_.first_visible.assign(n_rows_, 0);
    Batch batch;
    batch.rows = rows_;
    batch.first_visible = rest_.first_visible;
    batch.wanted = rest_.wanted;
    for (size_t i = 0; i < max_rope_tables; ++i) {
      angles_[i] = random_floats(n_rows_ * rest_.n_pairs * 2, static_cast<uint32_t>(11 + i));
      kept_angles_[i] = random_floats(n_rows_ * rest_.n_pairs * 2, static_cast<uint32_t>(21 + i));
      batch.angles[i] = angles_[i];
      batch.kept_angles[i] = kept_angles_[i];
    }
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
  Rest rest_;
  std::array<std::vector<float>, max_rope_tables> angles_;
  std::array<std::vector<float>, max_rope_tables> kept_angles_;
};

inline std::string sizes(std::initializer_list<size_t> numbers) {
  std::string text;
  for (const size_t n : numbers) text += (text.empty() ? "" : " x ") + std::to_string(n);
  return text;
}

}  // namespace vga::vulkan
