#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint.h"
#include "gguf/gguf_writer.h"
#include "model/weights.h"
#include "name_rules.h"
#include "quantization.h"
#include "tensor_encoder.h"

namespace vga {

/// One tensor of the GGUF file to be.
struct PlannedTensor {
  WeightSpec spec;                  // its name and shape
  std::string from;                 // the type that the source has, as that spells it
  std::string where;                // the source's file and name, for messages
  DType wanted;                     // what the quantization asks for
  DType type;                       // as it will be written: `wanted` if that makes whole rows
  TensorEncoder::ReadRow read_row;  // null if it is written as it is:
  std::span<const std::byte> data = {};

  size_t bytes() const { return spec.rows * row_bytes(type, spec.cols); }
};

/// A tensor of the checkpoint that is not written.
struct SkippedTensor {
  std::string name;
  std::string_view why;
};

/// What will be written.
struct Conversion {
  GgufWriter writer;                   // metadata and tensor table, complete
  std::vector<PlannedTensor> tensors;  // in file order
  std::vector<SkippedTensor> skipped;
  std::vector<std::string> notes;  // what the user should know, a line each
};

/// Matches the checkpoint's tensors with those its config asks for. A tensor that is missing,
/// unknown, of the wrong shape or of a type that weights do not come in is an Error naming it, as
/// is a tokenizer whose size is not the number of embeddings. An output matrix that differs from
/// the embedding is written whatever the config says. `checkpoint` must outlive the result.
Conversion plan_conversion(const Checkpoint& checkpoint, const Quantization& quantization,
                           const NameRules& rules);

/// Adds a tensor to both lists.
void plan_tensor(Conversion& conversion, PlannedTensor tensor);

/// Called with the bytes written so far and the tensor at hand; false stops.
using ConversionProgress = std::function<bool(uint64_t done, std::string_view tensor)>;

/// Streams the file; it appears under `path` complete or not at all. NaN, infinity and
/// values too large for the type are an Error naming the tensor. Returns false if `progress`
/// stopped it.
bool write_conversion(const Conversion& conversion, const std::filesystem::path& path,
                      const ConversionProgress& progress = {}, size_t n_threads = 0);

}  // namespace vga
