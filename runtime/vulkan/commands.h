#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <initializer_list>
#include <vector>

#include "vulkan/memory.h"

namespace vga::vulkan {

/// Records work for the device and hands it over in bounded pieces, so that no driver's watchdog
/// takes a long prefill for a hang. One thread uses it at a time.
struct Commands {
  explicit Commands(Device& device);
  Commands(const Commands&) = delete;
  Commands& operator=(const Commands&) = delete;
  ~Commands();

  /// Handed over at once, at most max_cost of work.
  struct Piece {
    VkCommandPool pool = VK_NULL_HANDLE;
    VkCommandBuffer buffer = VK_NULL_HANDLE;
    VkDescriptorPool descriptors = VK_NULL_HANDLE;  // none with push descriptors
    uint64_t finished_at = 0;                       // what `finished` counts to when it is done
    double cost = 0;                                // of what it holds
    bool empty = false;                             // its pools are reset
  };

  Device& device;
  std::array<Piece, 8> pieces;
  size_t current = 0;  // the piece that is being recorded, or will be next
  bool recording = false;
  uint32_t n_sets = 0;  // descriptor sets taken in this piece
  // Multiply-adds that one dispatch, and one piece, should not exceed: as many as this device does
  // in 50 ms, as far as is known. No driver's watchdog is near, the desktop can draw in between.
  double max_cost;
  VkQueryPool times = VK_NULL_HANDLE;     // (pieces, 2) begin and end; none without a clock
  VkSemaphore finished = VK_NULL_HANDLE;  // counts pieces done
  uint64_t submitted = 0;                 // pieces handed over
  uint64_t done = 0;                      // of those, as far as they were waited for
  std::vector<Range> written;             // since the last barrier
  std::vector<Range> read;
  // Time in which the device is known to have been at work: all that counts so far, and from when
  // on it has been at work since then.
  std::chrono::nanoseconds waited{0};
  std::chrono::steady_clock::time_point busy_since;

 private:
  Commands(Device& on, std::nullptr_t) : device(on), max_cost(on.limits.least_cost) {}
};

/// Runs a pipeline over `groups` workgroups after everything that it depends on. `buffers` are its
/// bindings, of which the last n_written ones are written; `cost` is in multiply-adds.
void dispatch(Commands& commands, const Device::Pipeline& pipeline,
              std::initializer_list<Range> buffers, std::span<const std::byte> constants,
              std::array<uint32_t, 3> groups, double cost = 0, size_t n_written = 1);

/// The same with the op's constants as a struct.
template <class Constants>
void dispatch(Commands& commands, const Device::Pipeline& pipeline,
              std::initializer_list<Range> buffers, const Constants& constants,
              std::array<uint32_t, 3> groups, double cost = 0, size_t n_written = 1) {
  static_assert(sizeof(Constants) <= Device::max_constants);
  dispatch(commands, pipeline, buffers, std::as_bytes(std::span(&constants, 1)), groups, cost,
           n_written);
}

/// Copies after everything that it depends on. Sizes are equal.
void copy(Commands& commands, const Range& from, const Range& to);

/// The same for parts of a range that are copied to others of it, by their places in the buffer.
void copy_within(Commands& commands, const Range& range, std::span<const VkBufferCopy> parts);

/// Sets a range to zero.
void clear(Commands& commands, const Range& range);

/// What follows sees what came before.
void barrier(Commands& commands);

/// Hands over what is recorded; returns what wait() takes to wait for it.
uint64_t submit(Commands& commands);

/// Waits until the device does not use what it was given any more. Of a lost device nothing is left
/// to wait for.
void wait_idle(const Commands& commands);

/// The same for what is recorded, too: after that anything may be destroyed.
void finish(Commands& commands) noexcept;

/// Waits for a submit() of the past, and sees to it that the host sees what it wrote.
void wait(Commands& commands, uint64_t submission);

}  // namespace vga::vulkan
