#include "baking.h"

#include <string>
#include <utility>

#include "gguf/decode.h"
#include "model/families.h"

namespace vga {

Conversion plan_baking(const Gguf& base, const Adaptation& adaptation,
                       const Quantization& quantization, const std::string& name) {
  const Config& config = adaptation.config();
  Conversion conversion{GgufWriter(base.alignment()), {}, {}, {}};
  constexpr std::string_view name_key = "general.name";
  const std::string gate_keys = config.family + ".attention.gate.";
  for (const auto& [key, value] : base.values()) {
    const bool is_written_anew = is_quantization_key(key) || key.starts_with(gate_keys) ||
                                 (key == name_key && !name.empty());
    if (!is_written_anew) conversion.writer.add(key, value);
  }
  if (!name.empty()) conversion.writer.add(name_key, std::string_view(name));
  write_gate(config, conversion.writer);
  write_quantization(quantization, conversion.writer);
  size_t twice = 0;
  for (const WeightSpec& spec : weight_specs(config)) {
    const GgufTensor* whole = adaptation.whole(spec.name);
    const GgufTensor& tensor = whole != nullptr ? *whole : *base.find_tensor(spec.name);
    const LowRank update = adaptation.update(spec.name);
    const DType from = dtype_from_gguf(tensor.type).value();
    const DType wanted = spec.keep_float() ? from : quantization.wanted(spec, config);
    const DType type = storable(wanted, spec.cols);
    PlannedTensor planned{.spec = spec,
                          .from = gguf_type_name(tensor.type),
                          .where = base.file_name() + ": tensor '" + spec.name + "'",
                          .wanted = wanted,
                          .type = type,
                          .read_row = nullptr,
                          .data = tensor.data};
    if (type != from || update) {
      planned.read_row = [=, data = tensor.data.data(), cols = spec.cols](size_t r,
                                                                          std::span<float> row) {
        decode_row(from, data + r * row_bytes(from, cols), row);
        if (update) add_update(update, r, row);
      };
      if (!is_plain(from) && !is_plain(type)) ++twice;
    }
    plan_tensor(conversion, std::move(planned));
  }
  if (twice > 0) {
    conversion.notes.push_back(std::to_string(twice) +
                               " tensors of the base are quantized already and lose a second "
                               "time; better start from a file in f16, bf16 or f32");
  }
  return conversion;
}

}  // namespace vga
