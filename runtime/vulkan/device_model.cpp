#include "vulkan/device_model.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "vga/error.h"
#include "vulkan/commands.h"
#include "vulkan/vulkan_backend.h"

namespace vga::vulkan {
namespace {

constexpr uint64_t margin = 64 << 20;  // for sums of attention, and other programs that draw there
constexpr uint64_t chunk_bytes = 256 << 20;   // of weights in one piece of memory
constexpr uint64_t staging_bytes = 16 << 20;  // of either half of the ring

std::string mebibytes(uint64_t bytes) {
  return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB";
}

/// Rows of a tensor that are bound together.
struct Part {
  Weight* weight;
  const Tensor* tensor;
  uint64_t first_row;
  uint64_t n_rows;
  uint64_t bytes;

  const std::byte* data() const { return tensor->row(first_row); }
  const std::byte* end() const { return data() + bytes; }
};

/// Cuts tensors into what the device can bind, and orders the parts as they lie in memory.
std::vector<Part> cut(const Limits& limits, PlacedWeights& to, std::span<Tensor* const> tensors) {
  // A part used in place begins and ends anywhere in a page.
  const uint64_t limit = std::min(limits.storage_range - limits.storage_alignment,
                                  limits.allocation - 2 * limits.import_alignment);
  std::vector<Part> parts;
  for (Tensor* t : tensors) {
    Weight& weight = to.weights.emplace_back();
    t->on_device = &weight;
    const uint64_t bytes_of_row = row_bytes(t->type, t->cols);
    const uint64_t step = limit / bytes_of_row;
    if (step == 0) {
      throw Error("Vulkan", "a row of " + std::to_string(bytes_of_row) +
                                " bytes is more than this device can bind");
    }
    for (uint64_t row = 0; row < t->rows; row += step) {
      const uint64_t n_rows = std::min(step, t->rows - row);
      parts.push_back({&weight, t, row, n_rows, n_rows * bytes_of_row});
    }
  }
  std::ranges::sort(parts, {}, &Part::data);
  return parts;
}

/// Where a part is found: `offset` bytes into a buffer, bound from the aligned place before.
void place(const Limits& limits, const Part& part, VkBuffer buffer, uint64_t offset) {
  const uint64_t start = offset / limits.storage_alignment * limits.storage_alignment;
  part.weight->slices.push_back({.range = {buffer, start, align_up(offset + part.bytes - start, 4)},
                                 .base = static_cast<uint32_t>((offset - start) / 2),
                                 .first_row = static_cast<uint32_t>(part.first_row),
                                 .n_rows = static_cast<uint32_t>(part.n_rows)});
}

/// Lets the device read the parts where the host has them, neighbours in one piece of memory. False
/// if the driver does not take them all, or the shaders, which read words.
bool use_in_place(Device& device, PlacedWeights& to, std::span<const Part> parts) {
  const Limits& limits = device.limits;
  const uint64_t page = limits.import_alignment;
  const auto address = [](const Part& p) { return reinterpret_cast<uintptr_t>(p.data()); };
  if (page == 0 || std::ranges::any_of(parts, [&](auto& p) { return address(p) % 4 != 0; })) {
    return false;
  }
  std::vector<Memory> pieces;
  for (size_t first = 0, end = 0; first < parts.size(); first = end) {
    const std::byte* start = parts[first].data() - address(parts[first]) % page;
    const auto bytes_to = [&](const Part& last) {
      return align_up(static_cast<uint64_t>(last.end() - start), page);
    };
    // Between neighbours there is no page that is not theirs.
    for (end = first + 1; end < parts.size(); ++end) {
      const auto gap = static_cast<uint64_t>(parts[end].data() - parts[end - 1].end());
      if (gap >= page || bytes_to(parts[end]) > limits.allocation) break;
    }
    Memory piece = Memory::import(device, start, bytes_to(parts[end - 1]), "weights in place");
    if (piece.buffer == VK_NULL_HANDLE) {
      for (const Part& part : parts) part.weight->slices.clear();
      return false;
    }
    for (const Part& part : parts.subspan(first, end - first)) {
      place(limits, part, piece.buffer, static_cast<uint64_t>(part.data() - start));
    }
    pieces.push_back(std::move(piece));
  }
  std::ranges::move(pieces, std::back_inserter(to.memory));
  return true;
}

/// Copies host memory to the device through two halves that take turns.
class Uploader {
 public:
  explicit Uploader(Device& device)
      : half_bytes_(std::min(staging_bytes, device.limits.allocation)),
        halves_{Memory(device, half_bytes_, Memory::Kind::upload, "staging"),
                Memory(device, half_bytes_, Memory::Kind::upload, "staging")},
        commands_(device) {}

  void copy_to(const Memory& to, uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const uint64_t n = std::min<uint64_t>(bytes.size(), half_bytes_);
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
  uint64_t half_bytes_;
  std::array<Memory, 2> halves_;
  std::array<uint64_t, 2> submitted_{};
  size_t turn_ = 0;
  Commands commands_;  // goes first, and waits
};

/// Copies a part so that its rows follow each other.
void upload(Uploader& uploader, const Part& part, const Memory& to, uint64_t offset) {
  const Tensor& tensor = *part.tensor;
  const uint64_t end = part.first_row + part.n_rows;
  for (uint64_t row = part.first_row, n = 0; row < end; row += n) {
    const uint64_t left = tensor.turn > 0 ? tensor.turn - row % tensor.turn : part.n_rows;
    n = std::min(left, end - row);
    const uint64_t bytes = n * row_bytes(tensor.type, tensor.cols);
    uploader.copy_to(to, offset, {tensor.row(row), bytes});
    offset += bytes;
  }
}

}  // namespace

void load(Device& device, PlacedWeights& to, std::span<Tensor* const> tensors, uint64_t besides,
          const std::function<void(uint64_t, uint64_t)>& progress) {
  const Limits& limits = device.limits;
  const DeviceInfo& info = device.info;
  const bool unified =
      info.type == DeviceInfo::Type::integrated || info.type == DeviceInfo::Type::cpu;
  std::vector<Part> parts = cut(limits, to, tensors);
  const auto in_turn = std::stable_partition(
      parts.begin(), parts.end(), [](const Part& part) { return part.tensor->turn == 0; });
  const std::span<const Part> whole(parts.begin(), in_turn);
  const bool in_place = unified && use_in_place(device, to, whole);

  // Where copies go.
  struct Copy {
    const Part& part;
    size_t chunk;
    uint64_t offset;
  };
  std::vector<Copy> copies;
  std::vector<uint64_t> chunks;  // bytes of each piece of memory
  uint64_t total = 0;
  for (const Part& part : std::span(parts).subspan(in_place ? whole.size() : 0)) {
    uint64_t offset = chunks.empty() ? 0 : align_up(chunks.back(), limits.storage_alignment);
    if (chunks.empty() ||
        offset + align_up(part.bytes, 4) > std::min(chunk_bytes, limits.allocation)) {
      chunks.push_back(0);
      offset = 0;
    }
    chunks.back() = offset + align_up(part.bytes, 4);
    copies.push_back({part, chunks.size() - 1, offset});
    total += part.bytes;
  }
  const uint64_t need = std::accumulate(chunks.begin(), chunks.end(), besides + margin);
  if (need > info.free) {
    throw Error(info.name, "needs " + mebibytes(need) + ", has " + mebibytes(info.free) +
                               " free; fewer --gpu-layers, a shorter --context or --device cpu "
                               "would do");
  }
  if (copies.empty()) return;
  const size_t first_chunk = to.memory.size();
  for (const uint64_t bytes : chunks) {
    to.memory.emplace_back(device, bytes, Memory::Kind::device, "weights");
  }
  Uploader uploader(device);
  uint64_t done = 0;
  for (const Copy& c : copies) {
    const Memory& chunk = to.memory[first_chunk + c.chunk];
    place(limits, c.part, chunk.buffer, c.offset);
    upload(uploader, c.part, chunk, c.offset);
    done += c.part.bytes;
    if (progress) progress(done, total);
  }
  uploader.finish();
}

namespace {

class Loaded : public vga::Device {
 public:
  explicit Loaded(size_t index) : weights_(std::make_unique<DeviceWeights>(index)) {}
  DeviceWeights& weights() { return *weights_; }
  std::unique_ptr<Backend> new_backend(size_t) const override {
    return vulkan::new_backend(weights_->device);
  }
  std::shared_ptr<const void> place(std::span<Tensor* const> matrices,
                                    std::span<Tensor* const> vectors) const override {
    std::vector<Tensor*> tensors(matrices.begin(), matrices.end());
    tensors.insert(tensors.end(), vectors.begin(), vectors.end());
    auto placed = std::make_shared<PlacedWeights>();
    vulkan::load(weights_->device, *placed, tensors, 0, {});
    return placed;
  }
  bool on_host() const override { return false; }

 private:
  std::unique_ptr<DeviceWeights> weights_;
};

}  // namespace

std::unique_ptr<const vga::Device> load(size_t index, Weights& weights, const Config& config,
                                        const LayerRange& layers, uint64_t besides,
                                        const std::function<void(uint64_t, uint64_t)>& progress) {
  std::vector<Tensor*> tensors;
  visit_layers(weights, config, layers,
               [&](const WeightSpec&, Tensor& tensor) { tensors.push_back(&tensor); });
  const bool has_last = layers.end == config.n_layers();
  const bool embeds = layers.first == 0;
  if (has_last && config.tied_embeddings && !embeds) tensors.push_back(&weights.output.weight);
  auto loaded = std::make_unique<Loaded>(index);
  load(loaded->weights().device, loaded->weights().placed, tensors, besides, progress);
  if (has_last && config.tied_embeddings && embeds) {
    weights.output.weight.on_device = weights.token_embd.on_device;
  }
  return loaded;
}

}  // namespace vga::vulkan
