#pragma once

#include "compute/backend.h"
#include "vulkan/device_model.h"
#include "vulkan/vulkan_buffer.h"

namespace vga::vulkan {

/// Products of activations with weights, in dispatches that are not too long for a device.
class VulkanProducts {
 public:
  VulkanProducts(Device& device, Commands& commands) : device_(device), commands_(commands) {}

  /// What becomes of a product beside being stored.
  struct Finish {
    Tensor bias = {};
    bool adds = false;  // to what is there
    float scale = 1;
    float cap = 0;
  };
  /// out = x W^T of n_rows rows.
  void project(const Buffer& x, size_t n_rows, const Tensor& weight, Buffer& out,
               const Finish& finish);
  /// See Backend.
  void project_experts(const Buffer& x, size_t n_rows, const Buffer& routed,
                       std::span<const ExpertProjection> projections);

 private:
  /// The arguments of project_experts(), and those rows of it that are computed at once.
  struct Rows {
    const Buffer& x;
    const Buffer& routed;
    size_t first;
    size_t n;

    size_t n_used() const { return routed.cols() / 2; }
    Range of(const Buffer& buffer) const { return on_device(buffer).rows_from(first, n); }
  };

  void project(const Buffer& x, size_t n_rows, const Tensor& weight, const Weight::Slice& slice,
               Buffer& out, const Finish& finish);
  void group(const Rows& rows, size_t n_experts);
  void project_pairs(const Rows& rows, const ExpertProjection& projection,
                     const Weight::Slice& slice);
  void project_groups(const Rows& rows, const ExpertProjection& projection,
                      const Weight::Slice& slice);
  uint32_t n_teams() const;

  Device& device_;
  Commands& commands_;
  Memory groups_;  // what group_rows.comp writes
};

}  // namespace vga::vulkan
