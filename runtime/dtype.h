#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace vga {

/// How the elements of a tensor row are stored. The numbers are GGUF's own type ids.
enum class DType : uint32_t {
  f32 = 0,
  f16 = 1,
  q8_0 = 8,   // blocks of 32: one f16 scale d, 32 int8 q; element = d * q
  bf16 = 30,  // the upper half of an f32
};

/// The name as people type it: "f16", "q8_0".
std::string_view name(DType type);
std::optional<DType> dtype_from_name(std::string_view name);
/// The DType of a GGUF type id; nullopt for one that this runtime does not compute with.
std::optional<DType> dtype_from_gguf(uint32_t id);
/// GGUF's name for a type id ("Q4_K"), whether or not we support it; "unknown type 99" otherwise.
std::string gguf_type_name(uint32_t id);

/// Elements in one block; rows are whole blocks. 1 for the plain types.
size_t block_elements(DType type);
size_t block_bytes(DType type);
/// Bytes of a row of `elements`, a multiple of block_elements(type).
inline size_t row_bytes(DType type, size_t elements) {
  return elements / block_elements(type) * block_bytes(type);
}

/// A q8_0 block as it lies in the file.
struct BlockQ8_0 {
  uint16_t d;  // f16
  int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

inline float f32_from_bf16(uint16_t h) {
  return std::bit_cast<float>(uint32_t{h} << 16);
}
/// Round to nearest even; NaN stays NaN.
uint16_t bf16_from_f32(float x);
float f32_from_f16(uint16_t h);
/// Round to nearest even; overflow becomes infinity, NaN stays NaN.
uint16_t f16_from_f32(float x);

/// Decodes the row at `row` into `out`; out.size() is a multiple of the block.
void decode_row(DType type, const std::byte* row, std::span<float> out);
/// Encodes `in` at `row`, row_bytes(type, in.size()) long.
/// q8_0 as in ggml: d = max|x| / 127 in f32, q = x / d rounded half away from zero, d stored as
/// f16.
void encode_row(DType type, std::span<const float> in, std::byte* row);

}  // namespace vga
