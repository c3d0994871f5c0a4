#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vga {

/// How the elements of a tensor row are stored. The numbers are GGUF's own type ids. The quantized
/// types come in blocks, described in blocks.h.
enum class DType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30,  // the upper half of an f32
};

/// The name as people type it: "f16", "q8_0".
std::string_view name(DType type);
/// All names, for messages: "f32, f16, ...".
std::string dtype_names();
std::optional<DType> dtype_from_name(std::string_view name);
/// The DType of a GGUF type id; nullopt for one that this runtime does not compute with.
std::optional<DType> dtype_from_gguf(uint32_t id);
/// GGUF's name for a type id ("Q4_K"), whether or not we support it; "unknown type 99" otherwise.
std::string gguf_type_name(uint32_t id);

/// Elements in one block; rows are whole blocks. 1 for the plain types.
size_t block_elements(DType type);
size_t block_bytes(DType type);
/// f32, f16 or bf16: numbers one by one, not in blocks.
bool is_plain(DType type);
/// Bytes of a row of `elements`, a multiple of block_elements(type).
inline size_t row_bytes(DType type, size_t elements) {
  return elements / block_elements(type) * block_bytes(type);
}

inline float f32_from_bf16(uint16_t h) {
  return std::bit_cast<float>(uint32_t{h} << 16);
}
/// Round to nearest even; NaN stays NaN.
uint16_t bf16_from_f32(float x);
float f32_from_f16(uint16_t h);
/// Round to nearest even; overflow becomes infinity, NaN stays NaN.
uint16_t f16_from_f32(float x);

}  // namespace vga
