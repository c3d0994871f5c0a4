#include "vulkan/vulkan_state.h"

#include <algorithm>
#include <string>

#include "vga/error.h"

namespace vga::vulkan {

VulkanState::VulkanState(Commands& commands, const StateShape& shape)
    : State(shape),
      commands_(commands),
      slot_bytes_(
          align_up(shape.n_floats() * sizeof(float), commands.device.limits.storage_alignment)) {
  const Limits& limits = commands.device.limits;
  slots_at_once_ = limits.storage_range / slot_bytes_;
  if (slots_at_once_ == 0) {
    throw Error("state", "one layer takes " + std::to_string(slot_bytes_) +
                             " bytes, the device binds " + std::to_string(limits.storage_range));
  }
  slots_of_memory_ = limits.allocation / slot_bytes_;
  const size_t n_slots = shape.n_layers * shape.n_slots;
  for (size_t slot = 0; slot < n_slots; slot += slots_of_memory_) {
    const size_t n = std::min(slots_of_memory_, n_slots - slot);
    memory_.emplace_back(commands.device, n * slot_bytes_, Memory::Kind::device, "states");
  }
}

VulkanState::~VulkanState() {
  finish(commands_);
}

Range VulkanState::slots(size_t layer, size_t first, size_t n) const {
  const size_t slot = index(layer, first);
  return {memory_[slot / slots_of_memory_].buffer, slot % slots_of_memory_ * slot_bytes_,
          n * slot_bytes_};
}

size_t VulkanState::slots_from(size_t layer, size_t first) const {
  return std::min({slots_at_once_, shape().n_slots - first,
                   slots_of_memory_ - index(layer, first) % slots_of_memory_});
}

}  // namespace vga::vulkan
