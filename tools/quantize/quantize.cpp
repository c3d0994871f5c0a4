/// vga-quantize: store a model's matrices in fewer bits.

#include <cstdio>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "common/program.h"
#include "common/terminal.h"
#include "gguf/decode.h"
#include "gguf/gguf.h"
#include "gguf/gguf_writer.h"
#include "model/families.h"
#include "model/weights.h"
#include "quantization.h"
#include "tensor_encoder.h"
#include "vga/config.h"

namespace {

struct Flags {
  std::string input;
  std::string output;
  std::string type;
  bool pure = false;
  size_t n_threads = 0;
  bool dry_run = false;
};

/// What becomes of one tensor of the input.
struct PlannedTensor {
  const vga::GgufTensor* source;
  std::string shape;  // "576 x 1536"
  uint64_t bytes;     // as it will be written
  /// The types of a matrix that is encoded anew; the others are copied.
  struct Encoding {
    vga::DType from;
    vga::DType wanted;
    vga::DType to;
    size_t rows;
    size_t cols;
  };
  std::optional<Encoding> encoding;
  std::optional<vga::EncodingError> error;  // once it is written
};

struct Plan {
  vga::GgufWriter writer;
  std::vector<PlannedTensor> tensors;  // in file order
};

void plan_metadata(const vga::Gguf& input, const vga::Quantization& quantization,
                   vga::GgufWriter& writer) {
  for (const auto& [key, value] : input.values()) {
    if (!vga::is_quantization_key(key)) writer.add(key, value);
  }
  vga::write_quantization(quantization, writer);
}

Plan make_plan(const vga::Gguf& input, const vga::Quantization& quantization) {
  const vga::Config config = vga::read_config(input);
  vga::bind_weights(input, config);  // every tensor is there, has the right shape, can be decoded
  std::map<std::string, vga::WeightSpec, std::less<>> matrices;
  for (vga::WeightSpec& spec : vga::weight_specs(config)) {
    if (!spec.keep_float()) matrices.emplace(spec.name, std::move(spec));
  }
  Plan plan{vga::GgufWriter(input.alignment()), {}};
  plan_metadata(input, quantization, plan.writer);
  for (const vga::GgufTensor& tensor : input.tensors()) {
    PlannedTensor planned{&tensor, vga::joined(tensor.shape(), " x "), tensor.data.size(), {}, {}};
    if (const auto at = matrices.find(tensor.name); at != matrices.end()) {
      const vga::WeightSpec& spec = at->second;
      const vga::DType from = vga::dtype_from_gguf(tensor.type).value();
      const vga::DType wanted = quantization.wanted(spec, config);
      const vga::DType to = vga::storable(wanted, spec.cols);
      if (from != to) {
        planned.encoding = PlannedTensor::Encoding{from, wanted, to, spec.rows, spec.cols};
        planned.bytes = spec.rows * vga::row_bytes(to, spec.cols);
        plan.writer.add_tensor(spec.name, to, spec.shape());
      }
    }
    if (!planned.encoding) plan.writer.add_tensor(tensor);
    plan.tensors.push_back(std::move(planned));
  }
  return plan;
}

void warn_of_second_loss(const Plan& plan) {
  size_t twice = 0;
  for (const PlannedTensor& tensor : plan.tensors) {
    const auto& e = tensor.encoding;
    if (e && !vga::is_plain(e->from) && !vga::is_plain(e->to)) ++twice;
  }
  if (twice == 0) return;
  std::cerr << "warning: " << twice
            << " tensors are quantized already and lose a second time; better start from a file in "
               "f16, bf16 or f32\n";
}

/// False if the user interrupted it.
bool write(Plan& plan, const vga::Gguf& input, const Flags& flags) {
  vga::catch_interrupts();
  vga::Progress bar("writing", plan.writer.file_size());
  vga::TensorEncoder encoder(flags.n_threads);
  vga::OutputFile out(flags.output);
  plan.writer.begin(out);
  for (PlannedTensor& tensor : plan.tensors) {
    const auto go_on = [&](uint64_t done) {
      bar.update(done, tensor.source->name);
      return !vga::interrupted();
    };
    if (!tensor.encoding) {
      if (!go_on(out.size())) return false;
      out.write(tensor.source->data);
    } else {
      const auto& [from, wanted, to, rows, cols] = *tensor.encoding;
      const std::byte* data = tensor.source->data.data();
      const size_t stride = vga::row_bytes(from, cols);
      const auto read_row = [data, stride, type = from](size_t r, std::span<float> row) {
        vga::decode_row(type, data + r * stride, row);
      };
      const std::string where =
          input.file_name() + ": tensor '" + std::string(tensor.source->name) + "'";
      tensor.error = encoder.write(rows, cols, to, where, read_row, go_on, out);
      if (!tensor.error) return false;
    }
    plan.writer.pad(out);
  }
  out.commit();
  return true;
}

double bits_per_weight(uint64_t bytes, uint64_t elements) {
  return elements > 0 ? 8 * static_cast<double>(bytes) / static_cast<double>(elements) : 0;
}

void print_table(const Plan& plan, const vga::Gguf& input) {
  uint64_t elements = 0;
  uint64_t before = 0;
  uint64_t after = 0;
  std::printf("%-26s %-14s %-4s    %-5s %13s %9s %10s\n", "tensor", "shape", "from", "to", "bytes",
              "rmse", "max error");
  for (const PlannedTensor& tensor : plan.tensors) {
    const std::string from = vga::gguf_type_name(tensor.source->type);
    const auto& e = tensor.encoding;
    std::printf("%-26s %-14s %-4s -> %-5s %13s", std::string(tensor.source->name).c_str(),
                tensor.shape.c_str(), from.c_str(), e ? std::string(name(e->to)).c_str() : "copy",
                vga::with_commas(tensor.bytes).c_str());
    if (tensor.error) {
      std::printf(" %7.3f %% %10.2g", 100 * tensor.error->relative,
                  static_cast<double>(tensor.error->max));
    }
    const std::string note = e ? vga::fallback_note(e->wanted, e->to) : "";
    std::printf("%s%s\n", note.empty() ? "" : "  ", note.c_str());
    uint64_t size = 1;
    for (const uint64_t dim : tensor.source->dims) size *= dim;
    elements += size;
    before += tensor.source->data.size();
    after += tensor.bytes;
  }
  std::printf("%zu tensors, %s parameters: %s -> %s, %.2f -> %.2f bits per weight\n",
              plan.tensors.size(), vga::with_commas(elements).c_str(),
              vga::human_bytes(before).c_str(), vga::human_bytes(after).c_str(),
              bits_per_weight(before, elements), bits_per_weight(after, elements));
  std::printf("file %s -> %s\n", vga::human_bytes(input.file_size()).c_str(),
              vga::human_bytes(plan.writer.file_size()).c_str());
}

int quantize(const Flags& flags) {
  vga::Quantization quantization = vga::quantization_from_name(flags.type);
  if (flags.pure && quantization.mixed) {
    throw vga::Error("--pure",
                     "wants one type for all, " + std::string(quantization.name) + " is a mix");
  }
  quantization.pure = flags.pure;
  const vga::Gguf input = vga::Gguf::open(flags.input);
  Plan plan = make_plan(input, quantization);
  if (!flags.dry_run) vga::check_output(flags.output, std::vector{flags.input});
  warn_of_second_loss(plan);
  if (flags.dry_run) {
    print_table(plan, input);
    std::cout << "dry run: nothing was written\n";
    return 0;
  }
  if (!write(plan, input, flags)) {
    std::cerr << "vga-quantize: interrupted, nothing was written\n";
    return vga::interrupted_status();
  }
  print_table(plan, input);
  std::cout << "wrote " << vga::printable(flags.output) << '\n';
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Store a model's matrices in fewer bits: smaller, faster to run, a little less exact.\n\n"
      "  vga-quantize model-f16.gguf model-q8.gguf q8_0\n"
      "  vga-quantize model-f16.gguf model-q4.gguf q4_k_m\n"
      "  vga-quantize model-f16.gguf out.gguf q4_0 --dry-run       what would it be like?\n"
      "  vga-quantize model-q4.gguf back.gguf f32                  what the runtime computes "
      "with\n\n"
      "TYPE        bits per weight\n"
      "  q8_0      8.5    hardly to be told from f16\n"
      "  q6_k      6.6    nearly as good\n"
      "  q5_k_m    5.7    q5_k with q6_k where errors hurt most\n"
      "  q4_k_m    4.9    q4_k with q6_k where errors hurt most: a good choice where memory "
      "counts\n"
      "  q5_k q5_1 q5_0 q4_k q4_1 q4_0   5.5 6 5.5 4.5 5 4.5, one type throughout\n"
      "  f16 bf16  16     no blocks; f32: 32, exact\n\n"
      "The matrix that makes the logits has q6_k at least, q5_k where it has more weights than "
      "all\n"
      "else, as with Gemma 3 270M's 262,144 tokens, or TYPE if --pure. Types in k want rows of\n"
      "whole blocks of 256, the others of 32; where a matrix has none, it gets the next type with "
      "at\n"
      "least as many bits, and the table says so. Norms, gates, biases and all metadata are "
      "copied.\n\n"
      "The table shows for each matrix the root mean square error, relative to that of its "
      "values,\n"
      "and the largest error. `vga-perplexity` tells what it does to the model. Start from a file\n"
      "in f16, bf16 or f32: what is quantized twice loses twice. The output appears under its "
      "name\n"
      "complete or not at all.",
      "vga-quantize");
  Flags flags;
  app.add_option("in", flags.input, "GGUF file to read")->required()->type_name("IN");
  app.add_option("out", flags.output, "GGUF file to write")->required()->type_name("OUT");
  app.add_option("type", flags.type, "One of " + vga::quantization_names())
      ->required()
      ->type_name("TYPE");
  app.add_flag("--pure", flags.pure, "The matrix that makes the logits has TYPE, too");
  vga::add_threads_to(app, flags.n_threads);
  app.add_flag("--dry-run", flags.dry_run, "Show what would be written, write nothing");
  return vga::run_program(app, argc, argv, [&] { return quantize(flags); });
}
