#pragma once

#include <span>
#include <vector>

#include "compute/backend.h"
#include "vulkan/batch.h"
#include "vulkan/vulkan_buffer.h"
#include "vulkan/vulkan_state.h"

namespace vga::vulkan {

/// The ops of delta nets. Columns do not meet in them, so each is a thread's, which walks through
/// the rows of a slot in order.
class VulkanDeltaNet {
 public:
  VulkanDeltaNet(Device& device, Commands& commands) : device_(device), commands_(commands) {}

  void begin(const Batch& batch, const Staged& staged) {
    rows_ = batch.rows;
    staged_ = &staged;
    runs_.clear();
  }

  void convolve(Buffer& x, const Tensor& taps, const VulkanState& state, size_t layer);
  void run(const Buffer& qkv, const Buffer& decay, const Buffer& strength, const VulkanState& state,
           size_t layer, Buffer& out);

 private:
  /// Runs whose states are bound together.
  struct Part {
    size_t first_run;
    size_t n_runs;
    size_t n_rows;  // of the longest
    size_t all_rows;
    size_t first_slot;
    Range states;
  };

  /// Plans the batch's runs when the first op asks, as most models have no delta nets, and fills
  /// what is staged of them.
  void plan();
  std::vector<Part> parts(const VulkanState& state, size_t layer);
  Range current(const Buffer& x) const { return on_device(x).rows_from(0, rows_.size()); }

  Device& device_;
  Commands& commands_;
  std::vector<GpuRun> runs_;
  std::span<const BatchRow> rows_;
  const Staged* staged_ = nullptr;
};

}  // namespace vga::vulkan
