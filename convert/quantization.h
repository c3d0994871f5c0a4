#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "gguf/gguf_writer.h"
#include "model/weights.h"

namespace vga {

/// How the matrices of a model are stored. Vectors and gates stay f32 whatever this says.
struct Quantization {
  std::string_view name;  // as people type it: "q4_k_m"
  DType type;             // of most matrices
  bool mixed;             // more bits for some layers' attn_v and ffn_down, an expert's too
  uint32_t file_type;     // llama.cpp's number for it, `general.file_type`
  bool pure = false;      // every matrix is of `type`, that of the output too

  /// The type that a tensor should have. A matrix that makes logits (the embedding, too, if it is
  /// tied) has at least q6_k unless `pure`, since its errors reach the result undamped; at least
  /// q5_k where it has more weights than all else, since size and speed are then its own. In a mix,
  /// attn_v and ffn_down have q6_k in the first and the last eighth of the layers and in every
  /// third between, as in llama.cpp's files of the same name; where q, k and v are one matrix, that
  /// has a bit more everywhere.
  DType wanted(const WeightSpec& spec, const Config& config) const;
};

/// Upper and lower case mean the same. A name that is none is an Error that lists them.
Quantization quantization_from_name(std::string_view name);
/// "q4_0, q4_1, ...", for messages, from few bits to many.
std::string quantization_names();

/// `wanted`, or the next type with at least its bits whose blocks make whole rows of `cols`.
DType storable(DType wanted, size_t cols);

/// What a table says about a tensor that got another type than wanted; empty if it did not.
std::string fallback_note(DType wanted, DType stored);

/// Adds `general.file_type` and, where blocks are written, `general.quantization_version`.
void write_quantization(const Quantization& quantization, GgufWriter& writer);
/// Whether write_quantization() speaks about this key.
bool is_quantization_key(std::string_view key);

}  // namespace vga
