/// Any bytes as a row of any type: decoded, and what is decoded encoded as every type. Weights of
/// ordinary size must stay finite.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "gguf/decode.h"
#include "gguf/encode.h"

namespace {

constexpr vga::DType types[] = {vga::DType::f32,  vga::DType::f16,  vga::DType::bf16,
                                vga::DType::q8_0, vga::DType::q4_0, vga::DType::q4_1,
                                vga::DType::q5_0, vga::DType::q5_1, vga::DType::q4_k,
                                vga::DType::q5_k, vga::DType::q6_k};
constexpr float ordinary = 1e4f;

bool all_below(const std::vector<float>& row, float limit) {
  return std::ranges::all_of(row, [limit](float x) { return std::fabs(x) < limit; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const vga::DType type = types[data[0] % std::size(types)];
  const auto* bytes = reinterpret_cast<const std::byte*>(data + 1);
  std::vector<float> row((size - 1) / vga::block_bytes(type) * vga::block_elements(type));
  if (row.empty()) return 0;  // no tensor has such rows
  vga::decode_row(type, bytes, row);
  if (!all_below(row, INFINITY)) return 0;  // whoever encodes refuses those
  row.resize((row.size() + 255) / 256 * 256);
  std::vector<float> decoded(row.size());
  for (const vga::DType to : types) {
    std::vector<std::byte> encoded(vga::row_bytes(to, row.size()));
    vga::encode_row(to, row, encoded.data());
    vga::decode_row(to, encoded.data(), decoded);
    if (all_below(row, ordinary) && !all_below(decoded, 2 * ordinary)) std::abort();
  }
  return 0;
}
