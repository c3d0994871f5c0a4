#include "vga/dtype.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

#include "base/text.h"
#include "gguf/blocks.h"

namespace vga {
namespace {

struct DTypeInfo {
  DType type;
  std::string_view name;
  size_t block_elements;
  size_t block_bytes;
};

template <class Block>
constexpr DTypeInfo of_blocks(DType type, std::string_view name) {
  return {type, name, Block::elements, sizeof(Block)};
}

constexpr std::array dtypes = {
    DTypeInfo{DType::f32, "f32", 1, 4},        DTypeInfo{DType::f16, "f16", 1, 2},
    DTypeInfo{DType::bf16, "bf16", 1, 2},      of_blocks<BlockQ8_0>(DType::q8_0, "q8_0"),
    of_blocks<BlockQ4_0>(DType::q4_0, "q4_0"), of_blocks<BlockQ4_1>(DType::q4_1, "q4_1"),
    of_blocks<BlockQ5_0>(DType::q5_0, "q5_0"), of_blocks<BlockQ5_1>(DType::q5_1, "q5_1"),
    of_blocks<BlockQ4_K>(DType::q4_k, "q4_k"), of_blocks<BlockQ5_K>(DType::q5_k, "q5_k"),
    of_blocks<BlockQ6_K>(DType::q6_k, "q6_k"),
};

const DTypeInfo& info(DType type) {
  const auto* found = std::ranges::find(dtypes, type, &DTypeInfo::type);
  assert(found != dtypes.end());
  return *found;
}

/// ggml's names by type id, for messages; empty where an id was removed or never given.
constexpr std::array<std::string_view, 40> gguf_names = {
    "F32",     "F16",    "Q4_0",    "Q4_1",  "",       "",      "Q5_0",  "Q5_1",
    "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
    "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16",  "",
    "",        "",       "TQ1_0",   "TQ2_0", "",       "",      "",      "MXFP4"};

}  // namespace

std::string_view name(DType type) {
  return info(type).name;
}
std::string dtype_names() {
  return names_of(dtypes);
}

size_t block_elements(DType type) {
  return info(type).block_elements;
}
size_t block_bytes(DType type) {
  return info(type).block_bytes;
}
bool is_plain(DType type) {
  return block_elements(type) == 1;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  const auto* found = std::ranges::find(dtypes, name, &DTypeInfo::name);
  if (found == dtypes.end()) return std::nullopt;
  return found->type;
}

std::optional<DType> dtype_from_gguf(uint32_t id) {
  const auto* found = std::ranges::find(dtypes, static_cast<DType>(id), &DTypeInfo::type);
  if (found == dtypes.end()) return std::nullopt;
  return found->type;
}

std::string gguf_type_name(uint32_t id) {
  if (id < gguf_names.size() && !gguf_names[id].empty()) return std::string(gguf_names[id]);
  return "unknown type " + std::to_string(id);
}

uint16_t bf16_from_f32(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float f32_from_f16(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t exponent = h >> 10 & 0x1F;
  const uint32_t mantissa = h & 0x3FF;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | mantissa << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t f16_from_f32(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00;   // NaN
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // rounds to 65536 or more
  if (magnitude < 0x38800000) {                       // below 2^-14: a multiple of 2^-24
    // Adding 0.5 aligns the f32 so that its last mantissa bit is worth 2^-24: the FPU rounds.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3F000000));
  }
  const uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112 << 10)));
}

}  // namespace vga
