/// Any bytes as a pickle and as a torch.save archive: the readers return or throw Error, nothing is
/// executed, and every element of a small tensor they return can be read.

#include "pickle.h"
#include "torch_state.h"
#include "vga/error.h"

namespace {

// Strides of 0 make a tensor of any size out of a few bytes.
constexpr uint64_t max_read = 1 << 16;

void read_all(const vga::SourceTensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.type || tensor.shape.empty() || tensor.shape.size() > 2) continue;
    const uint64_t n_rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
    if (n_rows > max_read || tensor.shape.back() > max_read) continue;
    std::vector<float> row(tensor.shape.back());
    for (uint64_t r = 0; !row.empty() && r < n_rows && r < 64; ++r) tensor.read_row(r, row);
    if (!row.empty() && n_rows > 0) tensor.read_row(n_rows - 1, row);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    vga::parse_pickled_state(bytes, "fuzz");
  } catch (const vga::Error&) {
  }
  try {
    read_all(vga::parse_torch_state(bytes, "fuzz"));
  } catch (const vga::Error&) {
  }
  return 0;
}
