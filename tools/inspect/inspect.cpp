/// vga-inspect: what is in a GGUF file, and what would it take to run it?

#include <iostream>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "common/layer_windows.h"
#include "common/program.h"
#include "gguf/gguf.h"
#include "inspect/check_tensors.h"
#include "model/families.h"
#include "model/model.h"
#include "model/weights.h"

namespace {

struct Flags {
  std::string file;
  size_t context = 0;
  bool json = false;
  bool check_tensors = false;
};

uint64_t tensor_bytes(const vga::Gguf& gguf) {
  uint64_t bytes = 0;
  for (const auto& tensor : gguf.tensors()) bytes += tensor.data.size();
  return bytes;
}

/// Memory a session needs: weights, KV cache, nothing else of size.
struct Needs {
  size_t context;
  uint64_t weights;
  uint64_t cache_f16;
  uint64_t cache_f32;
};

Needs needs(const vga::Gguf& gguf, const vga::Config& config, size_t context) {
  vga::SessionOptions options;
  options.context = context == 0 ? config.context_length : context;
  options.cache_type = vga::DType::f16;
  const uint64_t f16 = vga::cache_bytes(config, options);
  return {options.context, tensor_bytes(gguf), f16, 2 * f16};
}

std::string gate_text(const vga::AttentionGate& gate) {
  if (!gate) return "none (vanilla attention)";
  return "from the " + std::string(name(gate.source)) + ", on the " +
         std::string(name(gate.placement)) + ", one per " + std::string(name(gate.granularity)) +
         (gate.bias ? ", with bias" : ", without bias");
}

void print_text(const vga::Gguf& gguf, const vga::Config* config, const std::string& problem,
                size_t context) {
  std::cout << vga::printable(gguf.file_name()) << ": GGUF v" << gguf.version() << ", "
            << vga::human_bytes(gguf.file_size()) << ", " << gguf.tensors().size() << " tensors\n";
  if (config != nullptr) {
    const Needs n = needs(gguf, *config, context);
    const vga::Config& c = *config;
    std::cout << "\n  layers " << c.n_layers() << ", hidden " << c.hidden_size << ", ffn "
              << c.ffn_size << ", heads " << c.n_heads << " (" << c.n_kv_heads << " KV) of "
              << c.head_dim << ", vocabulary " << c.vocab_size << ", context " << c.context_length
              << "\n  attention gate: " << gate_text(c.gate);
    if (const std::string windows = vga::layer_windows(c); !windows.empty()) {
      std::cout << "\n  windows: " << windows;
    }
    std::cout << "\n  memory at context " << n.context << ": weights "
              << vga::human_bytes(n.weights) << " + cache " << vga::human_bytes(n.cache_f16)
              << " (f16) or " << vga::human_bytes(n.cache_f32) << " (f32)\n";
  } else {
    std::cout << "\n  cannot be run: " << problem << '\n';
  }
  std::cout << "\nmetadata\n";
  for (const auto& [key, value] : gguf.values()) {
    std::cout << "  " << key << " = " << describe(value) << '\n';
  }
  std::cout << "\ntensors\n";
  for (const auto& tensor : gguf.tensors()) {
    std::printf("  %-30s %-8s %-16s %s\n", std::string(tensor.name).c_str(),
                vga::gguf_type_name(tensor.type).c_str(),
                vga::joined(tensor.shape(), " x ").c_str(),
                vga::human_bytes(tensor.data.size()).c_str());
  }
}

void print_json(const vga::Gguf& gguf, const vga::Config* config, const std::string& problem,
                size_t context) {
  using nlohmann::ordered_json;
  ordered_json out = {{"file", gguf.file_name()},
                      {"version", gguf.version()},
                      {"bytes", gguf.file_size()},
                      {"runnable", config != nullptr}};
  if (config != nullptr) {
    const Needs n = needs(gguf, *config, context);
    const vga::AttentionGate& gate = config->gate;
    out["attention_gate"] = {{"source", name(gate.source)},
                             {"placement", name(gate.placement)},
                             {"granularity", name(gate.granularity)},
                             {"bias", gate.bias}};
    out["family"] = config->family;
    out["layer_windows"] = vga::layer_windows(*config);
    out["memory"] = {{"context", n.context},
                     {"weights", n.weights},
                     {"cache_f16", n.cache_f16},
                     {"cache_f32", n.cache_f32}};
  } else {
    out["problem"] = problem;
  }
  for (const auto& [key, value] : gguf.values()) {
    out["metadata"][std::string(key)] = {
        {"type", value.type == vga::GgufType::array ? std::string(name(value.element)) + "[]"
                                                    : std::string(name(value.type))},
        {"count", value.count},
        {"value", describe(value, 200)}};
  }
  for (const auto& tensor : gguf.tensors()) {
    out["tensors"].push_back({{"name", tensor.name},
                              {"type", vga::gguf_type_name(tensor.type)},
                              {"shape", tensor.shape()},
                              {"bytes", tensor.data.size()}});
  }
  std::cout << out.dump(2, ' ', false, ordered_json::error_handler_t::replace) << '\n';
}

int inspect(const Flags& flags) {
  const vga::Gguf gguf = vga::Gguf::open(flags.file);
  if (gguf.trailing_bytes() > 0) {
    std::cerr << "warning: " << vga::human_bytes(gguf.trailing_bytes())
              << " behind the last tensor belong to nothing\n";
  }
  // A file that we cannot run can still be looked at.
  std::optional<vga::Config> config;
  std::string problem;
  try {
    config = vga::read_config(gguf);
    vga::bind_weights(gguf, *config);
    vga::read_tokenizer(gguf, *config);
  } catch (const vga::Error& error) {
    config.reset();
    problem = error.what();
  }
  if (flags.check_tensors)
    return vga::check_tensors(gguf, config ? &*config : nullptr) == 0 ? 0 : 1;
  const auto print = flags.json ? print_json : print_text;
  print(gguf, config ? &*config : nullptr, problem, flags.context);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Show what a GGUF file holds: metadata, attention gate, tensors, and the memory it needs.\n\n"
      "  vga-inspect stories.gguf\n"
      "  vga-inspect stories.gguf --context 32768 --json | jq .memory",
      "vga-inspect");
  Flags flags;
  app.add_option("file", flags.file, "GGUF file")->required()->type_name("FILE");
  app.add_option("-c,--context", flags.context, "Context to compute the memory for")
      ->check(CLI::Range(size_t{1}, vga::max_context))
      ->type_name("N");
  app.add_flag("--json", flags.json, "Print JSON");
  app.add_flag("--check-tensors", flags.check_tensors,
               "Look for NaN and infinity in the weights, and for keys and values that an f16 "
               "cache may not hold; status 1 if there are any");
  return vga::run_program(app, argc, argv, [&] { return inspect(flags); });
}
