#include "device_model.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "../error.h"
#include "commands.h"
#include "vulkan_backend.h"

namespace vga::vulkan {
namespace {

constexpr uint64_t margin = 64 << 20;  // for sums of attention, and other programs that draw there
constexpr uint64_t chunk_bytes = 256 << 20;   // of weights in one piece of memory
constexpr uint64_t staging_bytes = 16 << 20;  // of either half of the ring

std::string mebibytes(uint64_t bytes) {
  return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB";
}

/// Rows of a slice.
uint64_t rows_of_slice(const Tensor& t, uint64_t limit) {
  const uint64_t rows = limit / row_bytes(t.type, t.cols);
  if (rows == 0) {
    throw Error("Vulkan", "a row of " + std::to_string(row_bytes(t.type, t.cols)) +
                              " bytes is more than this device can bind");
  }
  return std::min<uint64_t>(rows, t.rows);
}

/// A slice whose bytes begin `offset` into a buffer, bound from the aligned place before.
Weight::Slice slice_at(const Limits& limits, VkBuffer buffer, uint64_t offset, uint64_t bytes,
                       uint64_t first_row, uint64_t n_rows) {
  const uint64_t start = offset / limits.storage_alignment * limits.storage_alignment;
  return {.range = {buffer, start, align_up(offset + bytes - start, 4)},
          .base = static_cast<uint32_t>((offset - start) / 2),
          .first_row = static_cast<uint32_t>(first_row),
          .n_rows = static_cast<uint32_t>(n_rows)};
}

/// Uses the tensor where the host has it; false if the driver does not take it, or the shaders,
/// which read words.
bool use_in_place(DeviceWeights& to, const Tensor& t, Weight& weight) {
  const Limits& limits = to.device.limits;
  const uint64_t page = limits.import_alignment;
  if (page == 0 || reinterpret_cast<uintptr_t>(t.data) % 4 != 0) return false;
  const uint64_t limit =
      std::min(limits.storage_range - limits.storage_alignment, limits.allocation - 2 * page);
  const uint64_t step = rows_of_slice(t, limit);
  const size_t n_memory = to.memory.size();
  for (uint64_t row = 0; row < t.rows; row += step) {
    const uint64_t n_rows = std::min(step, t.rows - row);
    const uint64_t bytes = n_rows * row_bytes(t.type, t.cols);
    const auto address = reinterpret_cast<uintptr_t>(t.row(row));
    const uint64_t before = address % page;
    Memory memory = Memory::import(to.device, t.row(row) - before, align_up(before + bytes, page),
                                   "weights in place");
    if (memory.buffer == VK_NULL_HANDLE) {
      to.memory.resize(n_memory);
      weight.slices.clear();
      return false;
    }
    weight.slices.push_back(slice_at(limits, memory.buffer, before, bytes, row, n_rows));
    to.memory.push_back(std::move(memory));
  }
  return true;
}

/// Copies host memory to the device through two halves that take turns.
class Uploader {
 public:
  explicit Uploader(Device& device)
      : halves_{Memory(device, staging_bytes, Memory::Kind::upload, "staging"),
                Memory(device, staging_bytes, Memory::Kind::upload, "staging")},
        commands_(device) {}

  void copy_to(const Memory& to, uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const uint64_t n = std::min<uint64_t>(bytes.size(), staging_bytes);
      wait(commands_, submitted_[turn_]);
      std::memcpy(halves_[turn_].mapped, bytes.data(), n);
      copy(commands_, {halves_[turn_].buffer, 0, n}, {to.buffer, offset, n});
      submitted_[turn_] = submit(commands_);
      turn_ = 1 - turn_;
      offset += n;
      bytes = bytes.subspan(n);
    }
  }
  void finish() { wait(commands_, submit(commands_)); }

 private:
  std::array<Memory, 2> halves_;
  std::array<uint64_t, 2> submitted_{};
  size_t turn_ = 0;
  Commands commands_;  // goes first, and waits
};

}  // namespace

void load(DeviceWeights& to, std::span<Tensor* const> tensors, uint64_t besides,
          const std::function<void(uint64_t, uint64_t)>& progress) {
  const Limits& limits = to.device.limits;
  const bool unified = to.device.info.type == DeviceInfo::Type::integrated ||
                       to.device.info.type == DeviceInfo::Type::cpu;
  // A slice that is to be copied, and where to.
  struct Copy {
    const std::byte* from;
    size_t chunk;
    uint64_t offset;
    uint64_t bytes;
  };
  std::vector<Copy> copies;
  std::vector<uint64_t> chunks;                    // bytes of each
  std::vector<std::pair<Weight*, size_t>> copied;  // with the index of its first copy
  uint64_t total = 0;
  for (Tensor* t : tensors) {
    Weight& weight = to.weights.emplace_back();
    t->on_device = &weight;
    if (unified && use_in_place(to, *t, weight)) continue;
    copied.emplace_back(&weight, copies.size());
    const uint64_t step = rows_of_slice(*t, std::min(limits.storage_range, limits.allocation) - 4);
    for (uint64_t row = 0; row < t->rows; row += step) {
      const uint64_t n_rows = std::min(step, t->rows - row);
      const uint64_t bytes = n_rows * row_bytes(t->type, t->cols);
      uint64_t offset = chunks.empty() ? 0 : align_up(chunks.back(), limits.storage_alignment);
      if (chunks.empty() || offset + bytes + 4 > std::min(chunk_bytes, limits.allocation)) {
        chunks.push_back(0);
        offset = 0;
      }
      chunks.back() = offset + align_up(bytes, 4);
      copies.push_back({t->row(row), chunks.size() - 1, offset, bytes});
      weight.slices.push_back({.range = {VK_NULL_HANDLE, offset, align_up(bytes, 4)},
                               .base = 0,
                               .first_row = static_cast<uint32_t>(row),
                               .n_rows = static_cast<uint32_t>(n_rows)});
      total += bytes;
    }
  }
  const DeviceInfo& device = to.device.info;
  const uint64_t need = std::accumulate(chunks.begin(), chunks.end(), besides + margin);
  if (need > device.free) {
    throw Error(device.name, "needs " + mebibytes(need) + ", has " + mebibytes(device.free) +
                                 " free; fewer --gpu-layers, a shorter --context or --device cpu "
                                 "would do");
  }
  if (copies.empty()) return;
  const size_t first_chunk = to.memory.size();
  for (const uint64_t bytes : chunks) {
    to.memory.emplace_back(to.device, bytes, Memory::Kind::device, "weights");
  }
  for (const auto& [weight, first_copy] : copied) {
    for (size_t i = 0; i < weight->slices.size(); ++i) {
      weight->slices[i].range.buffer = to.memory[first_chunk + copies[first_copy + i].chunk].buffer;
    }
  }
  Uploader uploader(to.device);
  uint64_t done = 0;
  for (const Copy& c : copies) {
    uploader.copy_to(to.memory[first_chunk + c.chunk], c.offset, {c.from, c.bytes});
    done += c.bytes;
    if (progress) progress(done, total);
  }
  uploader.finish();
}

namespace {

class Loaded : public DeviceModel {
 public:
  explicit Loaded(size_t index) : weights_(index) {}
  DeviceWeights& weights() { return weights_; }
  std::unique_ptr<Backend> new_backend() override { return vulkan::new_backend(weights_.device); }

 private:
  DeviceWeights weights_;
};

}  // namespace

std::unique_ptr<DeviceModel> load(size_t index, std::span<Tensor* const> tensors, uint64_t besides,
                                  const std::function<void(uint64_t, uint64_t)>& progress) {
  auto loaded = std::make_unique<Loaded>(index);
  load(loaded->weights(), tensors, besides, progress);
  return loaded;
}

}  // namespace vga::vulkan
