/// Any bytes as a safetensors file, its index, a config.json, a llama2.c file: the readers return
/// or throw Error, and every element of a tensor they return can be read.

#include "config_json.h"
#include "llama2c.h"
#include "safetensors.h"
#include "vga/error.h"

namespace {

void read_all(const vga::SourceTensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.type || tensor.shape.empty() || tensor.shape.size() > 2) continue;
    std::vector<float> row(tensor.shape.back());
    const size_t n_rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
    for (size_t r = 0; !row.empty() && r < n_rows; ++r) tensor.read_row(r, row);
  }
}

template <class Read>
void try_to(Read&& read) {
  try {
    read();
  } catch (const vga::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try_to([&] { read_all(vga::parse_safetensors(bytes, "fuzz")); });
  try_to([&] { vga::parse_safetensors_index(bytes, "fuzz"); });
  try_to([&] { vga::parse_config_json(bytes, "fuzz"); });
  try_to([&] { read_all(vga::parse_llama2c(bytes, "fuzz").tensors); });
  return 0;
}
