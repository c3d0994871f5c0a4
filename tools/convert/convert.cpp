/// vga-convert: a trained checkpoint goes in, a GGUF file comes out.

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "baking.h"
#include "base/text.h"
#include "common/program.h"
#include "common/terminal.h"
#include "conversion.h"
#include "gguf/gguf.h"
#include "model/adaptation.h"
#include "model/families.h"
#include "model/weights.h"
#include "peft.h"
#include "vga/error.h"

namespace {

struct Flags {
  std::string checkpoint;
  std::string output;
  std::string type = "f16";
  std::string tokenizer;
  std::vector<std::string> renames;
  std::vector<std::string> skips;
  std::string name;
  std::string base;
  std::vector<vga::AdapterOptions> adapters;
  size_t n_threads = 0;
  bool dry_run = false;
};

void print_table(const vga::Conversion& conversion) {
  uint64_t elements = 0;
  uint64_t bytes = 0;
  std::printf("%-28s %-16s %-16s    %-5s %14s\n", "tensor", "shape", "from", "to", "bytes");
  for (const vga::PlannedTensor& tensor : conversion.tensors) {
    const std::string note = vga::fallback_note(tensor.wanted, tensor.type);
    std::printf("%-28s %-16s %-16s -> %-5s %14s%s%s\n", tensor.spec.name.c_str(),
                vga::joined(tensor.spec.shape(), " x ").c_str(), tensor.from.c_str(),
                tensor.read_row ? std::string(name(tensor.type)).c_str() : "copy",
                vga::with_commas(tensor.bytes()).c_str(), note.empty() ? "" : "  ", note.c_str());
    elements += tensor.spec.rows * tensor.spec.cols;
    bytes += tensor.bytes();
  }
  for (const vga::SkippedTensor& skipped : conversion.skipped) {
    std::printf("%-28s skipped: %s\n", vga::printable(skipped.name).c_str(),
                std::string(skipped.why).c_str());
  }
  std::printf("%zu tensors, %s parameters, %s of weights, %s in all\n", conversion.tensors.size(),
              vga::with_commas(elements).c_str(), vga::human_bytes(bytes).c_str(),
              vga::human_bytes(conversion.writer.file_size()).c_str());
}

/// False if the user interrupted it.
bool write(const vga::Conversion& conversion, const Flags& flags) {
  vga::catch_interrupts();
  vga::Progress bar("writing", conversion.writer.file_size());
  const auto progress = [&](uint64_t done, std::string_view tensor) {
    bar.update(done, tensor);
    return !vga::interrupted();
  };
  return vga::write_conversion(conversion, flags.output, progress, flags.n_threads);
}

void check_output_of(const Flags& flags, const std::vector<std::string>& inputs) {
  if (flags.dry_run) return;
  if (flags.output.empty()) throw vga::Error("-o FILE says where to write; --dry-run only shows");
  vga::check_output(flags.output, inputs);
}

/// Writes what is planned, or only shows it.
int finish(const vga::Conversion& conversion, const Flags& flags) {
  for (const std::string& note : conversion.notes) {
    std::cerr << "note: " << vga::printable(note) << '\n';
  }
  if (flags.dry_run) {
    print_table(conversion);
    std::cout << "dry run: nothing was written\n";
    return 0;
  }
  if (!write(conversion, flags)) {
    std::cerr << "vga-convert: interrupted, nothing was written\n";
    return vga::interrupted_status();
  }
  print_table(conversion);
  std::cout << "wrote " << vga::printable(flags.output) << '\n';
  return 0;
}

std::vector<std::string> names_of_files(const std::vector<vga::MappedFile>& files) {
  std::vector<std::string> names;
  for (const vga::MappedFile& file : files) names.push_back(file.name());
  return names;
}

int convert_checkpoint(const Flags& flags, const vga::Quantization& quantization) {
  const vga::NameRules rules{{flags.skips.begin(), flags.skips.end()},
                             {flags.renames.begin(), flags.renames.end()}};
  vga::Checkpoint checkpoint = vga::open_checkpoint(flags.checkpoint, flags.tokenizer);
  if (checkpoint.tokenizer_name.empty()) {
    std::cerr << "note: no tokenizer.model or tokenizer.json beside the weights and no --tokenizer "
                 "FILE: the result "
                 "takes token ids, not text\n";
  }
  if (!flags.name.empty()) checkpoint.config.model_name = flags.name;
  const vga::Conversion conversion = vga::plan_conversion(checkpoint, quantization, rules);
  check_output_of(flags, names_of_files(checkpoint.files));
  return finish(conversion, flags);
}

int convert_adapter(const Flags& flags, const vga::Quantization& quantization) {
  vga::PeftAdapter adapter = vga::open_peft(flags.checkpoint);
  if (!flags.name.empty()) adapter.name = flags.name;
  const vga::Gguf base = vga::Gguf::open(flags.base);
  const vga::Conversion conversion = vga::plan_adapter(adapter, base, quantization.type);
  std::vector<std::string> inputs = names_of_files(adapter.files);
  inputs.push_back(flags.base);
  check_output_of(flags, inputs);
  return finish(conversion, flags);
}

int bake(const Flags& flags, const vga::Quantization& quantization) {
  const vga::Gguf base = vga::Gguf::open(flags.checkpoint);
  const vga::Config config = vga::read_config(base);
  vga::bind_weights(base, config);  // every tensor is there, has the right shape, can be decoded
  const vga::Adaptation adaptation(config, base.file_name(), flags.adapters);
  const vga::Conversion conversion = vga::plan_baking(base, adaptation, quantization, flags.name);
  std::vector<std::string> inputs = {flags.checkpoint};
  for (const vga::AdapterOptions& adapter : flags.adapters) inputs.push_back(adapter.path.string());
  check_output_of(flags, inputs);
  return finish(conversion, flags);
}

int convert(const Flags& flags) {
  const vga::Quantization quantization = vga::quantization_from_name(flags.type);
  const bool takes_names = flags.base.empty() && flags.adapters.empty();
  if (!takes_names && !(flags.renames.empty() && flags.skips.empty() && flags.tokenizer.empty())) {
    throw vga::Error("--rename, --skip and --tokenizer are for checkpoints of models");
  }
  if (!flags.base.empty()) return convert_adapter(flags, quantization);
  if (!flags.adapters.empty()) return bake(flags, quantization);
  return convert_checkpoint(flags, quantization);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Turn a trained checkpoint into a GGUF file that the runtime loads.\n\n"
      "  vga-convert models/stories -o stories.gguf\n"
      "  vga-convert models/stories -o stories-q8.gguf --type q8_0\n"
      "  vga-convert run7/step9000.pt -o step9000.gguf      (config.json lies beside it)\n"
      "  vga-convert stories15M.bin --tokenizer tokenizer.model -o stories15M.gguf\n"
      "  vga-convert peft-folder --base model.gguf -o adapter.gguf\n"
      "  vga-convert model.gguf --adapter adapter.gguf -o merged.gguf --type q8_0\n"
      "  vga-convert mine --dry-run --rename '^transformer\\.h\\.(\\d+)\\.=model.layers.$1.'\n\n"
      "CHECKPOINT is a folder in Hugging Face's layout (config.json, tokenizer.model, weights as\n"
      "model.safetensors or pytorch_model.bin, their shards, or one .pt, .pth, .ckpt or .bin), "
      "one\n"
      "such weights file, or a llama2.c float32 .bin. Nothing in a PyTorch file is ever executed.\n"
      "With --base it is a folder of PEFT's with a LoRA adapter (adapter_config.json,\n"
      "adapter_model.safetensors), with --adapter a GGUF file, which gets the adapters for good.\n"
      "The output appears under its name complete or not at all. docs/checkpoints.md describes "
      "the\n"
      "formats.",
      "vga-convert");
  Flags flags;
  app.add_option("checkpoint", flags.checkpoint, "Folder or file to convert")
      ->required()
      ->type_name("CHECKPOINT");
  app.add_option("-o,--output", flags.output, "GGUF file to write")->type_name("FILE");
  app.add_option("--type", flags.type,
                 "How matrices are stored: " + vga::quantization_names() +
                     ". Vectors and gates stay f32; vga-quantize --help says more")
      ->capture_default_str()
      ->type_name("TYPE");
  app.add_option("--base", flags.base,
                 "CHECKPOINT is an adapter as PEFT saves it, of this model: make a GGUF file of it")
      ->type_name("GGUF");
  vga::add_adapters_to(app, flags.adapters);
  app.get_option("--adapter")
      ->description(
          "CHECKPOINT is a GGUF file: write it with this adapter for good, its updates times SCALE "
          "(default: 1); may be repeated")
      ->excludes("--base");
  vga::add_threads_to(app, flags.n_threads);
  app.add_option(
         "--tokenizer", flags.tokenizer,
         "SentencePiece model or tokenizer.json (default: tokenizer.model beside the weights, "
         "else tokenizer.json)")
      ->type_name("FILE");
  app.add_option("--rename", flags.renames,
                 "Replace what matches in tensor names, before they are looked up; may be repeated,"
                 " applies in order; $1 is a group")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("REGEX=NEW");
  app.add_option("--skip", flags.skips,
                 "Leave out tensors in whose name the regex is found, such as buffers that the "
                 "model does not need; may be repeated")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("REGEX");
  app.add_option("--name", flags.name, "The model's name (default: that of the folder or file)");
  app.add_flag("--dry-run", flags.dry_run, "Show what would be written, write nothing");
  return vga::run_program(app, argc, argv, [&] { return convert(flags); });
}
