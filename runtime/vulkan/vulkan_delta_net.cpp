#include "vulkan/vulkan_delta_net.h"

#include <algorithm>
#include <bit>

#include "vulkan/device_model.h"
#include "vulkan/grid.h"

namespace vga::vulkan {
namespace {

/// Workgroups that share the columns of a head, as delta_rule.comp has it: none of their lanes
/// keeps more than 32 elements of a state.
size_t blocks_of(size_t head_dim) {
  const size_t n_parts = std::bit_ceil((head_dim + 31) / 32);
  return (head_dim * n_parts - 1) / Limits::workgroup_size + 1;
}

}  // namespace

void VulkanDeltaNet::plan() {
  std::vector<uint32_t> rows;
  plan_runs(rows_, rows, runs_);
  staged_->fill(staged_->run_rows, std::as_bytes(std::span(rows)));
  staged_->fill(staged_->runs, std::as_bytes(std::span(runs_)));
}

std::vector<VulkanDeltaNet::Part> VulkanDeltaNet::parts(const VulkanState& state, size_t layer) {
  if (runs_.empty()) plan();
  std::vector<Part> parts;
  for (size_t first = 0; first < runs_.size();) {
    const size_t slot = runs_[first].slot;
    const size_t end_slot = slot + state.slots_from(layer, slot);
    Part part = {.first_run = first,
                 .n_runs = 0,
                 .n_rows = 0,
                 .all_rows = 0,
                 .first_slot = slot,
                 .states = {}};
    for (; first < runs_.size() && runs_[first].slot < end_slot; ++first) {
      ++part.n_runs;
      part.n_rows = std::max<size_t>(part.n_rows, runs_[first].n_rows);
      part.all_rows += runs_[first].n_rows;
    }
    part.states = state.slots(layer, slot, runs_[first - 1].slot + 1 - slot);
    parts.push_back(part);
  }
  return parts;
}

void VulkanDeltaNet::convolve(Buffer& x, const Tensor& taps, const VulkanState& state,
                              size_t layer) {
  struct Push {
    uint32_t n_runs, first_run, first_slot, slot_floats, cols, first_col, part_cols, taps_base;
  };
  const auto& p = pipeline(device_, {"convolve", {}, {u32(taps.cols)}}, 5);
  for (const Part& part : parts(state, layer)) {
    for (const Weight::Slice& slice : taps.on_device->slices) {
      dispatch(commands_, p,
               {staged_->runs, staged_->run_rows, slice.range, part.states, current(x)},
               Push{u32(part.n_runs), u32(part.first_run), u32(part.first_slot),
                    u32(state.slot_floats()), u32(x.cols()), slice.first_row, slice.n_rows,
                    slice.base / 2},
               threads(part.n_runs * slice.n_rows),
               static_cast<double>(part.all_rows * slice.n_rows * taps.cols), 2);
    }
  }
}

void VulkanDeltaNet::run(const Buffer& qkv, const Buffer& decay, const Buffer& strength,
                         const VulkanState& state, size_t layer, Buffer& out) {
  struct Push {
    uint32_t n_runs, first_run, first_slot, slot_floats, first_float, first_row, most_rows,
        n_key_heads, n_value_heads, grouped;
  };
  const DeltaNet& net = state.shape().net;
  const auto& p = pipeline(device_, {"delta_rule", {}, {u32(net.head_dim)}}, 7);
  const auto row_cost = static_cast<double>(4 * net.value_size() * net.head_dim);
  for (const Part& part : parts(state, layer)) {
    // As many rows of each run as one dispatch may take; the state waits for the next ones.
    const double cost = row_cost * static_cast<double>(part.n_runs);
    const auto most_rows = static_cast<size_t>(std::max(1.0, commands_.max_cost / cost));
    for (size_t row = 0; row < part.n_rows; row += most_rows) {
      const size_t n_rows = std::min(most_rows, part.n_rows - row);
      dispatch(commands_, p,
               {staged_->runs, staged_->run_rows, current(qkv), current(decay), current(strength),
                part.states, current(out)},
               Push{u32(part.n_runs), u32(part.first_run), u32(part.first_slot),
                    u32(state.slot_floats()), u32(state.shape().n_inputs()), u32(row), u32(n_rows),
                    u32(net.n_key_heads), u32(net.n_value_heads), net.grouped ? 1u : 0u},
               grid(part.n_runs * net.n_value_heads * blocks_of(net.head_dim)),
               cost * static_cast<double>(n_rows), 2);
    }
  }
}

}  // namespace vga::vulkan
