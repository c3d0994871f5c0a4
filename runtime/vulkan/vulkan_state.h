#pragma once

#include <vector>

#include "compute/backend.h"
#include "vulkan/commands.h"

namespace vga::vulkan {

/// States of delta nets on a device: (n_layers, n_slots) times what StateShape lists, in as few
/// pieces of memory as the device allows.
class VulkanState : public State {
 public:
  /// An Error if the device cannot bind what one slot has in a layer.
  VulkanState(Commands& commands, const StateShape& shape);
  ~VulkanState() override;

  /// n slots of a layer from `first` on, as many as slots_from() allows.
  Range slots(size_t layer, size_t first, size_t n) const;
  /// How many slots from `first` on can be bound at once.
  size_t slots_from(size_t layer, size_t first) const;
  /// From one slot of a layer to the next.
  size_t slot_floats() const { return slot_bytes_ / sizeof(float); }

 private:
  size_t index(size_t layer, size_t slot) const { return layer * shape().n_slots + slot; }

  Commands& commands_;  // that use it
  uint64_t slot_bytes_;
  std::vector<Memory> memory_;  // (n_layers, n_slots)
  size_t slots_at_once_;        // that can be bound
  size_t slots_of_memory_;
};

inline const VulkanState& on_device(const State& state) {
  return static_cast<const VulkanState&>(state);
}

}  // namespace vga::vulkan
