#include "vulkan/commands.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "vga/error.h"

namespace vga::vulkan {
namespace {

constexpr uint32_t max_sets = 512;   // dispatches of a piece, without push descriptors
constexpr uint32_t first_sets = 16;  // of the first piece, so that the device begins early
constexpr double piece_seconds = 0.05;

bool overlaps(const Range& a, const Range& b) {
  return a.buffer == b.buffer && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
}

bool touches(const std::vector<Range>& ranges, const Range& range) {
  return std::ranges::any_of(ranges, [&](const Range& r) { return overlaps(r, range); });
}

/// A barrier if what follows reads what was written, or writes what was read or written, since the
/// last one.
void order(Commands& c, std::span<const Range> reads, std::span<const Range> writes) {
  const auto is_written = [&](const Range& r) { return touches(c.written, r); };
  const auto is_read = [&](const Range& r) { return touches(c.read, r); };
  if (std::ranges::any_of(reads, is_written) || std::ranges::any_of(writes, is_written) ||
      std::ranges::any_of(writes, is_read)) {
    barrier(c);
  }
  c.read.insert(c.read.end(), reads.begin(), reads.end());
  c.written.insert(c.written.end(), writes.begin(), writes.end());
}

/// What `finished` has counted to; anything if the device is lost.
uint64_t count(const Commands& c) {
  uint64_t value = 0;
  VK(vkGetSemaphoreCounterValue(c.device.handle, c.finished, &value));
  return value;
}

/// Waits until `finished` has counted to `value`. If the device is still at it, then it has been at
/// work since busy_since: what the host did meanwhile took no time of its own.
void wait_until(Commands& c, uint64_t value) {
  if (value <= c.done) return;
  const bool at_work = count(c) < value;
  VkSemaphoreWaitInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO;
  info.semaphoreCount = 1;
  info.pSemaphores = &c.finished;
  info.pValues = &value;
  VK(vkWaitSemaphores(c.device.handle, &info, UINT64_MAX));
  c.done = value;
  if (!at_work) return;
  const auto now = std::chrono::steady_clock::now();
  c.waited += now - std::exchange(c.busy_since, now);
}

uint32_t first_time(const Commands& c, const Commands::Piece& piece) {
  return static_cast<uint32_t>(2 * (&piece - c.pieces.data()));
}

/// Learns from a piece that is done how much the next ones may hold. Small ones tell little.
void learn_cost(Commands& c, const Commands::Piece& piece) {
  if (c.times == VK_NULL_HANDLE || piece.cost < c.max_cost / 4) return;
  std::array<uint64_t, 2> times;  // begin, end
  if (vkGetQueryPoolResults(c.device.handle, c.times, first_time(c, piece), 2, sizeof times,
                            times.data(), sizeof times[0], VK_QUERY_RESULT_64_BIT) != VK_SUCCESS) {
    return;
  }
  const uint64_t ticks = std::max<uint64_t>((times[1] - times[0]) & c.device.clock_mask, 1);
  const double seconds = static_cast<double>(ticks) * c.device.tick * 1e-9;
  c.max_cost = std::clamp(std::min(piece.cost * piece_seconds / seconds, 2 * c.max_cost),
                          c.device.limits.least_cost, c.device.limits.most_cost);
}

/// Takes back what a piece held once the device is done with it.
void empty(Commands& c, Commands::Piece& piece) {
  wait_until(c, piece.finished_at);
  learn_cost(c, piece);
  VK(vkResetCommandPool(c.device.handle, piece.pool, 0));
  if (piece.descriptors != VK_NULL_HANDLE) {
    VK(vkResetDescriptorPool(c.device.handle, piece.descriptors, 0));
  }
  piece.empty = true;
}

VkCommandBuffer start(Commands& c) {
  Commands::Piece& piece = c.pieces[c.current];
  if (c.recording) return piece.buffer;
  if (!piece.empty) empty(c, piece);
  piece.empty = false;
  piece.cost = 0;
  VkCommandBufferBeginInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  info.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  VK(vkBeginCommandBuffer(piece.buffer, &info));
  c.recording = true;
  c.n_sets = 0;
  barrier(c);  // also against the piece before
  if (c.times != VK_NULL_HANDLE) {
    vkCmdResetQueryPool(piece.buffer, c.times, first_time(c, piece), 2);
    vkCmdWriteTimestamp(piece.buffer, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, c.times,
                        first_time(c, piece));
  }
  return piece.buffer;
}

}  // namespace

// Once it is delegated, what is half made is destroyed like what is whole.
Commands::Commands(Device& on) : Commands(on, nullptr) {
  for (Piece& piece : pieces) {
    VkCommandPoolCreateInfo pool = {};
    pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
    pool.flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT;
    pool.queueFamilyIndex = device.queue_family;
    VK(vkCreateCommandPool(device.handle, &pool, nullptr, &piece.pool));
    VkCommandBufferAllocateInfo info = {};
    info.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
    info.commandPool = piece.pool;
    info.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
    info.commandBufferCount = 1;
    VK(vkAllocateCommandBuffers(device.handle, &info, &piece.buffer));
    if (!device.limits.push_descriptors) {
      const VkDescriptorPoolSize size = {VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                         max_sets * uint32_t{Device::max_buffers}};
      VkDescriptorPoolCreateInfo sets = {};
      sets.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO;
      sets.maxSets = max_sets;
      sets.poolSizeCount = 1;
      sets.pPoolSizes = &size;
      VK(vkCreateDescriptorPool(device.handle, &sets, nullptr, &piece.descriptors));
    }
  }
  if (device.clock_mask != 0 && device.limits.least_cost < device.limits.most_cost) {
    VkQueryPoolCreateInfo queries = {};
    queries.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO;
    queries.queryType = VK_QUERY_TYPE_TIMESTAMP;
    queries.queryCount = static_cast<uint32_t>(2 * pieces.size());
    VK(vkCreateQueryPool(device.handle, &queries, nullptr, &times));
  }
  VkSemaphoreTypeCreateInfo type = {};
  type.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO;
  type.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
  VkSemaphoreCreateInfo semaphore = {};
  semaphore.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO;
  semaphore.pNext = &type;
  VK(vkCreateSemaphore(device.handle, &semaphore, nullptr, &finished));
}

Commands::~Commands() {
  wait_idle(*this);
  vkDestroySemaphore(device.handle, finished, nullptr);
  vkDestroyQueryPool(device.handle, times, nullptr);
  for (const Piece& piece : pieces) {
    vkDestroyCommandPool(device.handle, piece.pool, nullptr);
    vkDestroyDescriptorPool(device.handle, piece.descriptors, nullptr);
  }
}

void dispatch(Commands& c, const Device::Pipeline& p, std::initializer_list<Range> buffers,
              std::span<const std::byte> constants, std::array<uint32_t, 3> groups, double cost,
              size_t n_written) {
  assert(buffers.size() == p.n_buffers && constants.size() % 4 == 0);
  for (const Range& range : buffers) {
    if (range.bytes <= c.device.limits.storage_range) continue;
    throw Error("batch", "takes " + std::to_string(range.bytes) +
                             " bytes of activations, the "
                             "device binds " +
                             std::to_string(c.device.limits.storage_range) +
                             "; wanted a smaller batch");
  }
  const bool idle = c.done == c.submitted;
  if (c.recording && (c.pieces[c.current].cost + cost > c.max_cost || c.n_sets == max_sets ||
                      (idle && c.n_sets == first_sets))) {
    submit(c);
  }
  VkCommandBuffer commands = start(c);
  c.pieces[c.current].cost += cost;
  ++c.n_sets;
  const std::span<const Range> all(buffers.begin(), buffers.size());
  order(c, all.first(all.size() - n_written), all.last(n_written));

  std::array<VkDescriptorBufferInfo, Device::max_buffers> infos;
  std::array<VkWriteDescriptorSet, Device::max_buffers> writes = {};
  for (uint32_t i = 0; i < p.n_buffers; ++i) {
    infos[i] = {all[i].buffer, all[i].offset, all[i].bytes};
    writes[i].sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET;
    writes[i].dstBinding = i;
    writes[i].descriptorCount = 1;
    writes[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    writes[i].pBufferInfo = &infos[i];
  }
  vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, p.handle);
  if (c.device.limits.push_descriptors) {
    vkCmdPushDescriptorSetKHR(commands, VK_PIPELINE_BIND_POINT_COMPUTE, p.layout, 0, p.n_buffers,
                              writes.data());
  } else {
    VkDescriptorSetAllocateInfo info = {};
    info.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO;
    info.descriptorPool = c.pieces[c.current].descriptors;
    info.descriptorSetCount = 1;
    info.pSetLayouts = &p.set_layout;
    VkDescriptorSet set = VK_NULL_HANDLE;
    VK(vkAllocateDescriptorSets(c.device.handle, &info, &set));
    for (VkWriteDescriptorSet& write : writes) write.dstSet = set;
    vkUpdateDescriptorSets(c.device.handle, p.n_buffers, writes.data(), 0, nullptr);
    vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, p.layout, 0, 1, &set, 0,
                            nullptr);
  }
  if (!constants.empty()) {
    vkCmdPushConstants(commands, p.layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                       static_cast<uint32_t>(constants.size()), constants.data());
  }
  vkCmdDispatch(commands, groups[0], groups[1], groups[2]);
}

void copy(Commands& c, const Range& from, const Range& to) {
  VkCommandBuffer commands = start(c);
  order(c, {&from, 1}, {&to, 1});
  const VkBufferCopy region = {from.offset, to.offset, from.bytes};
  vkCmdCopyBuffer(commands, from.buffer, to.buffer, 1, &region);
}

void copy_within(Commands& c, const Range& range, std::span<const VkBufferCopy> parts) {
  VkCommandBuffer commands = start(c);
  order(c, {&range, 1}, {&range, 1});
  vkCmdCopyBuffer(commands, range.buffer, range.buffer, static_cast<uint32_t>(parts.size()),
                  parts.data());
}

void clear(Commands& c, const Range& range) {
  VkCommandBuffer commands = start(c);
  order(c, {}, {&range, 1});
  vkCmdFillBuffer(commands, range.buffer, range.offset, range.bytes, 0);
}

void barrier(Commands& c) {
  constexpr VkPipelineStageFlags stages =
      VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
  VkMemoryBarrier memory = {};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  memory.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT |
                         VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  vkCmdPipelineBarrier(start(c), stages, stages, 0, 1, &memory, 0, nullptr, 0, nullptr);
  c.written.clear();
  c.read.clear();
}

uint64_t submit(Commands& c) {
  if (!c.recording) return c.submitted;
  Commands::Piece& piece = c.pieces[c.current];
  // What was written is for the host to see once it has waited.
  VkMemoryBarrier memory = {};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT;
  memory.dstAccessMask = VK_ACCESS_HOST_READ_BIT;
  vkCmdPipelineBarrier(piece.buffer, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0,
                       1, &memory, 0, nullptr, 0, nullptr);
  if (c.times != VK_NULL_HANDLE) {
    vkCmdWriteTimestamp(piece.buffer, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, c.times,
                        first_time(c, piece) + 1);
  }
  VK(vkEndCommandBuffer(piece.buffer));
  c.recording = false;
  const uint64_t value = c.submitted + 1;
  VkTimelineSemaphoreSubmitInfo timeline = {};
  timeline.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO;
  timeline.signalSemaphoreValueCount = 1;
  timeline.pSignalSemaphoreValues = &value;
  VkSubmitInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  info.pNext = &timeline;
  info.commandBufferCount = 1;
  info.pCommandBuffers = &piece.buffer;
  info.signalSemaphoreCount = 1;
  info.pSignalSemaphores = &c.finished;
  const bool idle = count(c) >= c.submitted;
  {
    const std::lock_guard lock(c.device.mutex);
    VK(vkQueueSubmit(c.device.queue, 1, &info, VK_NULL_HANDLE));
  }
  if (idle) c.busy_since = std::chrono::steady_clock::now();
  c.submitted = value;
  piece.finished_at = value;
  c.current = (c.current + 1) % c.pieces.size();
  // While the device works.
  Commands::Piece& next = c.pieces[c.current];
  if (next.finished_at <= c.done) empty(c, next);
  return value;
}

void wait_idle(const Commands& c) {
  if (c.submitted == 0) return;
  VkSemaphoreWaitInfo info = {};
  info.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO;
  info.semaphoreCount = 1;
  info.pSemaphores = &c.finished;
  info.pValues = &c.submitted;
  vkWaitSemaphores(c.device.handle, &info, UINT64_MAX);
}

void finish(Commands& c) noexcept {
  try {
    submit(c);
  } catch (const Error&) {
    c.recording = false;  // what was recorded is never run
  }
  wait_idle(c);
}

void wait(Commands& c, uint64_t submission) {
  wait_until(c, submission);
}

}  // namespace vga::vulkan
