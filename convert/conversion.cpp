#include "conversion.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "encode.h"
#include "error.h"
#include "vocabulary.h"

namespace vga {
namespace {

namespace fs = std::filesystem;

/// A tensor of the checkpoint under the name it will have.
struct Found {
  const std::string* source_name;
  const SourceTensor* tensor;
};
using FoundTensors = std::map<std::string, Found>;

FoundTensors match_names(const Checkpoint& checkpoint, const std::vector<Rename>& renames,
                         std::vector<std::string>& skipped) {
  FoundTensors found;
  for (const auto& [source_name, tensor] : checkpoint.tensors) {
    const std::string where = checkpoint.path + ": tensor '" + source_name + "'";
    const std::string name = canonical_name(source_name, renames);
    const auto target = gguf_name(name);
    const bool tied_copy = checkpoint.config.tied_embeddings && target == "output.weight";
    if (is_redundant(name) || tied_copy) {
      skipped.push_back(source_name);
      continue;
    }
    if (!target) {
      throw Error(where, std::string(name == source_name ? "" : "renamed to '" + name + "', ") +
                             "is no part of this model; --rename maps names that differ");
    }
    const auto [twin, is_new] = found.emplace(*target, Found{&source_name, &tensor});
    if (!is_new) throw Error(where, "means the same as tensor '" + *twin->second.source_name + "'");
  }
  return found;
}

std::string shape_text(const WeightSpec& spec) {
  const std::string cols = std::to_string(spec.cols) + ")";
  return "(" + (spec.is_vector ? cols : std::to_string(spec.rows) + ", " + cols);
}

void check_tensor(const WeightSpec& spec, const SourceTensor& tensor, const std::string& where) {
  const bool fits = spec.is_vector ? tensor.shape == std::vector<uint64_t>{spec.cols}
                                   : tensor.shape == std::vector<uint64_t>{spec.rows, spec.cols};
  if (!fits) {
    throw Error(where, "wanted shape " + shape_text(spec) + ", found " + tensor.shape_text());
  }
  if (!tensor.type) {
    throw Error(where, "wanted f32, f16 or bf16 values, found " + tensor.type_name);
  }
}

DType written_type(const WeightSpec& spec, DType wanted) {
  if (spec.keep_float) return DType::f32;
  return spec.cols % block_elements(wanted) == 0 ? wanted : DType::f16;
}

/// llama.cpp's `general.file_type`: what most of the file is.
uint32_t file_type(DType type) {
  switch (type) {
    case DType::f32:
      return 0;
    case DType::f16:
      return 1;
    case DType::q4_0:
      return 2;
    case DType::q4_1:
      return 3;
    case DType::q8_0:
      return 7;
    case DType::q5_0:
      return 8;
    case DType::q5_1:
      return 9;
    case DType::q4_k:
      return 15;
    case DType::q5_k:
      return 17;
    case DType::q6_k:
      return 18;
    case DType::bf16:
      return 32;
  }
  return 0;
}

void write_metadata(const Checkpoint& checkpoint, DType type, GgufWriter& writer) {
  write_config(checkpoint.config, writer);
  writer.add("general.file_type", file_type(type));
  if (type == DType::q8_0) writer.add("general.quantization_version", uint32_t{2});
  if (checkpoint.tokenizer_name.empty()) return;
  const auto tokenizer = parse_sentencepiece(checkpoint.tokenizer, checkpoint.tokenizer_name);
  if (tokenizer.pieces.size() != checkpoint.config.vocab_size) {
    throw Error(checkpoint.tokenizer_name,
                "has " + std::to_string(tokenizer.pieces.size()) + " pieces, the model embeds " +
                    std::to_string(checkpoint.config.vocab_size) + " (vocab_size)");
  }
  write_tokenizer(tokenizer, checkpoint.tokenizer, writer);
  if (!checkpoint.chat_template.empty()) {
    writer.add("tokenizer.chat_template", std::string_view(checkpoint.chat_template));
  }
}

/// Where row `row` of an adjacent-pair head lies when the head is half-split: rows 2i and 2i + 1
/// were i and i + head_dim / 2.
size_t half_split_row(size_t row, size_t head_dim) {
  const size_t in_head = row % head_dim;
  return row - in_head + in_head / 2 + in_head % 2 * (head_dim / 2);
}

/// The least magnitude that `type` would store as infinity.
float overflow(DType type) {
  constexpr float f16_overflow = 65520;
  switch (type) {
    case DType::f16:
    case DType::q4_0:
    case DType::q4_1:
    case DType::q5_0:
    case DType::q5_1:
    case DType::q4_k:
    case DType::q5_k:
    case DType::q6_k:
      return f16_overflow;
    case DType::q8_0:  // its scale, max / 127, is an f16
      return f16_overflow * 127;
    case DType::bf16:
      return 0x1.ffp127f;
    case DType::f32:
      break;
  }
  return INFINITY;
}

void check_row(std::span<const float> row, const PlannedTensor& tensor, size_t r) {
  const float limit = overflow(tensor.type);
  const auto bad = std::ranges::find_if(row, [limit](float x) { return !(std::fabs(x) < limit); });
  if (bad == row.end()) return;
  throw Error(tensor.where,
              "row " + std::to_string(r) + " holds " + std::to_string(*bad) +
                  (std::isfinite(*bad) ? ", too large for " + std::string(vga::name(tensor.type))
                                       : "; weights must be finite"));
}

/// False if `progress` stopped it.
bool write_tensor(const PlannedTensor& tensor, OutputFile& out,
                  const ConversionProgress& progress) {
  const WeightSpec& spec = tensor.spec;
  std::vector<float> row(spec.cols);
  std::vector<std::byte> encoded(row_bytes(tensor.type, spec.cols));
  for (size_t r = 0; r < spec.rows; ++r) {
    if (progress && !progress(out.size(), spec.name)) return false;
    const size_t head_dim = tensor.permuted_head_dim;
    tensor.source->read_row(head_dim == 0 ? r : half_split_row(r, head_dim), row);
    check_row(row, tensor, r);
    encode_row(tensor.type, row, encoded.data());
    out.write(encoded);
  }
  GgufWriter::pad(out);
  return true;
}

}  // namespace

Conversion plan_conversion(const Checkpoint& checkpoint, DType type,
                           const std::vector<Rename>& renames) {
  const Config& config = checkpoint.config;
  Conversion conversion;
  write_metadata(checkpoint, type, conversion.writer);
  FoundTensors found = match_names(checkpoint, renames, conversion.skipped);
  const bool permutes =
      config.architecture == Config::Architecture::llama && !checkpoint.adjacent_pairs;
  for (const WeightSpec& spec : weight_specs(config)) {
    const auto at = found.find(spec.name);
    if (at == found.end()) {
      throw Error(checkpoint.path,
                  "tensor '" + hugging_face_name(spec.name) + "' is missing, wanted " +
                      shape_text(spec) +
                      (spec.name == "output.weight" ? "; or is tie_word_embeddings true?" : ""));
    }
    const auto& [source_name, tensor] = at->second;
    const std::string where = checkpoint.path + ": tensor '" + *source_name + "'";
    check_tensor(spec, *tensor, where);
    const bool rotated =
        spec.name.ends_with("attn_q.weight") || spec.name.ends_with("attn_k.weight");
    const DType written = written_type(spec, type);
    conversion.writer.add_tensor(spec.name, written, spec.rows, spec.cols, spec.is_vector ? 1 : 2);
    conversion.tensors.push_back(
        {spec, tensor, where, written, permutes && rotated ? config.head_dim : 0});
    found.erase(at);
  }
  if (!found.empty()) {
    const auto& left = found.begin()->second;
    throw Error(checkpoint.path, "tensor '" + *left.source_name + "' " + left.tensor->shape_text() +
                                     " belongs to no part of the model that config.json describes");
  }
  return conversion;
}

bool write_conversion(const Conversion& conversion, const fs::path& path,
                      const ConversionProgress& progress) {
  OutputFile out(path);
  conversion.writer.begin(out);
  for (const PlannedTensor& tensor : conversion.tensors) {
    if (!write_tensor(tensor, out, progress)) return false;
  }
  out.commit();
  return true;
}

void check_output(const Checkpoint& checkpoint, const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return;
  if (!fs::is_regular_file(path, ignored)) {
    throw Error(path.string(), "exists and is not a regular file");
  }
  for (const MappedFile& file : checkpoint.files) {
    if (fs::equivalent(path, file.name(), ignored)) {
      throw Error(path.string(), "is a file of the checkpoint itself");
    }
  }
}

}  // namespace vga
