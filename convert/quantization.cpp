#include "quantization.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "base/text.h"
#include "vga/error.h"

namespace vga {
namespace {

constexpr std::string_view file_type_key = "general.file_type";
constexpr std::string_view version_key = "general.quantization_version";
constexpr uint32_t quantization_version = 2;  // of ggml's block layouts

constexpr std::array all = {
    Quantization{"q4_0", DType::q4_0, false, 2},  Quantization{"q4_1", DType::q4_1, false, 3},
    Quantization{"q4_k", DType::q4_k, false, 14}, Quantization{"q4_k_m", DType::q4_k, true, 15},
    Quantization{"q5_0", DType::q5_0, false, 8},  Quantization{"q5_1", DType::q5_1, false, 9},
    Quantization{"q5_k", DType::q5_k, false, 16}, Quantization{"q5_k_m", DType::q5_k, true, 17},
    Quantization{"q6_k", DType::q6_k, false, 18}, Quantization{"q8_0", DType::q8_0, false, 7},
    Quantization{"bf16", DType::bf16, false, 32}, Quantization{"f16", DType::f16, false, 1},
    Quantization{"f32", DType::f32, false, 0},
};

bool fewer_bits(DType a, DType b) {
  return block_bytes(a) * block_elements(b) < block_bytes(b) * block_elements(a);
}

/// Whether a mix gives a matrix more bits: those whose errors hurt most, in the first and the last
/// eighth of the layers and in every third between.
bool deserves_more_bits(const WeightSpec& spec, size_t n_layers) {
  const bool is_down = spec.role == Role::ffn_down || spec.role == Role::expert_down;
  if (spec.role != Role::attn_v && !is_down) return false;
  const size_t first = n_layers / 8;
  const size_t last = 7 * n_layers / 8;
  return spec.layer < first || spec.layer >= last || (spec.layer - first) % 3 == 2;
}

bool makes_logits(const WeightSpec& spec, const Config& config) {
  return spec.role == (config.tied_embeddings ? Role::embedding : Role::output);
}

/// Whether a matrix has more weights than all else in the model.
bool outweighs_the_rest(const WeightSpec& matrix, const Config& config) {
  uint64_t parameters = 0;
  for (const WeightSpec& spec : weight_specs(config)) parameters += spec.rows * spec.cols;
  return matrix.rows * matrix.cols > parameters / 2;
}

}  // namespace

DType Quantization::wanted(const WeightSpec& spec, const Config& config) const {
  if (spec.keep_float()) return DType::f32;
  if (pure || !fewer_bits(type, DType::q6_k)) return type;
  // All three in one matrix: between what v and the others have.
  const bool is_qkv = spec.role == Role::attn_qkv || spec.role == Role::delta_qkv;
  if (mixed && is_qkv) return type == DType::q4_k ? DType::q5_k : DType::q6_k;
  if (makes_logits(spec, config)) {
    // There is hardly anything else to save on.
    if (outweighs_the_rest(spec, config)) return fewer_bits(type, DType::q5_k) ? DType::q5_k : type;
    return DType::q6_k;
  }
  return mixed && deserves_more_bits(spec, config.n_layers()) ? DType::q6_k : type;
}

Quantization quantization_from_name(std::string_view name) {
  std::string lower(name);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  const auto* found = std::ranges::find(all, lower, &Quantization::name);
  if (found != all.end()) return *found;
  throw Error("type '" + std::string(name) + "'", "wanted one of " + quantization_names());
}

std::string quantization_names() {
  return names_of(all);
}

DType storable(DType wanted, size_t cols) {
  if (cols % block_elements(wanted) == 0) return wanted;
  switch (wanted) {
    case DType::q4_k:
      return storable(DType::q5_0, cols);
    case DType::q5_k:
      return storable(DType::q5_1, cols);
    case DType::q6_k:
      return storable(DType::q8_0, cols);
    default:
      return DType::f16;
  }
}

std::string fallback_note(DType wanted, DType stored) {
  if (wanted == stored) return "";
  return "not " + std::string(name(wanted)) + ": rows are not whole blocks of " +
         std::to_string(block_elements(wanted));
}

void write_quantization(const Quantization& quantization, GgufWriter& writer) {
  writer.add(file_type_key, quantization.file_type);
  if (!is_plain(quantization.type)) writer.add(version_key, quantization_version);
}

bool is_quantization_key(std::string_view key) {
  return key == file_type_key || key == version_key;
}

}  // namespace vga
