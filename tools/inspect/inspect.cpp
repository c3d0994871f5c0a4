/// vga-inspect: what is in a GGUF file, and what would it take to run it?

#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "common/layers.h"
#include "common/program.h"
#include "gguf/gguf.h"
#include "inspect/adapter_report.h"
#include "inspect/check_tensors.h"
#include "model/adaptation.h"
#include "model/families.h"
#include "model/model.h"
#include "model/weights.h"

namespace {

struct Flags {
  std::string file;
  std::vector<vga::AdapterOptions> adapters;
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

/// A file, and what it is: a model with the adapters that were given, an adapter, or neither.
struct Seen {
  const vga::Gguf& gguf;
  std::optional<vga::Config> config;                  // of a model that can be run
  std::unique_ptr<const vga::Adaptation> adaptation;  // null without adapters
  std::optional<vga::Adapter> adapter;                // the file itself
  std::string problem;                                // why it is neither
};

Needs needs(const Seen& seen, size_t context) {
  vga::SessionOptions options;
  options.context = context == 0 ? seen.config->context_length : context;
  options.cache_type = vga::DType::f16;
  const uint64_t f16 = vga::cache_bytes(*seen.config, options);
  options.cache_type = vga::DType::f32;  // what delta nets remember is f32 in any case
  const uint64_t f32 = vga::cache_bytes(*seen.config, options);
  const uint64_t adapters = seen.adaptation ? seen.adaptation->tensor_bytes() : 0;
  return {options.context, tensor_bytes(seen.gguf) + adapters, f16, f32};
}

void print_text(const Seen& seen, size_t context) {
  const vga::Gguf& gguf = seen.gguf;
  std::cout << vga::printable(gguf.file_name()) << ": GGUF v" << gguf.version() << ", "
            << vga::human_bytes(gguf.file_size()) << ", " << gguf.tensors().size() << " tensors\n";
  if (seen.config) {
    const Needs n = needs(seen, context);
    const vga::Config& c = *seen.config;
    std::cout << "\n  layers " << c.n_layers() << ", hidden " << c.hidden_size << ", ffn "
              << c.ffn_size << ", heads " << c.n_heads << " (" << c.n_kv_heads << " KV) of "
              << c.head_dim << ", vocabulary " << c.vocab_size << ", context " << c.context_length
              << "\n  attention gate: " << vga::gate_text(c.gate);
    if (const std::string windows = vga::layer_windows(c); !windows.empty()) {
      std::cout << "\n  windows: " << windows;
    }
    for (const std::string& kinds : {vga::layer_mixers(c), vga::layer_experts(c)}) {
      if (!kinds.empty()) std::cout << "\n  " << kinds;
    }
    if (c.has(vga::Mixer::delta)) {
      const vga::DeltaNet& d = c.delta;
      std::cout << "\n  delta nets: " << d.n_value_heads << " value heads over " << d.n_key_heads
                << " key heads of " << d.head_dim << ", convolution over " << d.conv_size
                << " tokens";
    }
    if (c.has_experts()) {
      std::cout << "\n  experts: ffn " << c.experts.ffn_size << ", shared "
                << c.experts.shared_ffn_size << ", router "
                << (c.experts.router == vga::Experts::Router::softmax ? "softmax" : "sigmoid");
    }
    std::cout << "\n  memory at context " << n.context << ": weights "
              << vga::human_bytes(n.weights) << " + cache " << vga::human_bytes(n.cache_f16)
              << " (f16) or " << vga::human_bytes(n.cache_f32) << " (f32)\n";
    if (seen.adaptation) {
      for (const vga::Adapter& adapter : seen.adaptation->adapters()) {
        std::cout << "  with " << vga::printable(adapter.file().file_name()) << '\n';
        vga::print_adapter(adapter, std::cout);
      }
    }
  } else if (seen.adapter) {
    std::cout << '\n';
    vga::print_adapter(*seen.adapter, std::cout);
  } else {
    std::cout << "\n  cannot be run: " << seen.problem << '\n';
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

void print_json(const Seen& seen, size_t context) {
  using nlohmann::ordered_json;
  const vga::Gguf& gguf = seen.gguf;
  ordered_json out = {{"file", gguf.file_name()},
                      {"version", gguf.version()},
                      {"bytes", gguf.file_size()},
                      {"runnable", seen.config.has_value()}};
  if (seen.config) {
    const Needs n = needs(seen, context);
    out["attention_gate"] = vga::gate_json(seen.config->gate);
    out["family"] = seen.config->family;
    out["layer_windows"] = vga::layer_windows(*seen.config);
    out["layer_mixers"] = vga::layer_mixers(*seen.config);
    out["layer_experts"] = vga::layer_experts(*seen.config);
    for (const vga::LayerConfig& layer : seen.config->layers) {
      out["layers"].push_back({{"mixer", layer.mixer == vga::Mixer::delta ? "delta" : "attention"},
                               {"gate", layer.mixer == vga::Mixer::attention && seen.config->gate},
                               {"window", layer.window},
                               {"rope", layer.rope.has_value()},
                               {"experts", layer.experts}});
    }
    out["memory"] = {{"context", n.context},
                     {"weights", n.weights},
                     {"cache_f16", n.cache_f16},
                     {"cache_f32", n.cache_f32}};
    if (seen.adaptation) {
      for (const vga::Adapter& adapter : seen.adaptation->adapters()) {
        out["adapters"].push_back(vga::adapter_json(adapter));
      }
    }
  } else if (seen.adapter) {
    out["adapter"] = vga::adapter_json(*seen.adapter);
  } else {
    out["problem"] = seen.problem;
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

/// A file that we cannot run can still be looked at; adapters that are given must fit.
Seen look_at(const vga::Gguf& gguf, const Flags& flags) {
  Seen seen{gguf, {}, {}, {}, {}};
  try {
    if (vga::Adapter::is_adapter(gguf) && flags.adapters.empty()) {
      seen.adapter.emplace(vga::Gguf::open(flags.file));
      return seen;
    }
    vga::Config config = vga::read_config(gguf);
    vga::bind_weights(gguf, config);
    vga::read_tokenizer(gguf, config);
    seen.config = std::move(config);
  } catch (const vga::Error& error) {
    if (!flags.adapters.empty()) throw;
    seen.problem = error.what();
  }
  if (flags.adapters.empty()) return seen;
  seen.adaptation =
      std::make_unique<vga::Adaptation>(*seen.config, gguf.file_name(), flags.adapters);
  seen.config = seen.adaptation->config();
  return seen;
}

int inspect(const Flags& flags) {
  const vga::Gguf gguf = vga::Gguf::open(flags.file);
  if (gguf.trailing_bytes() > 0) {
    std::cerr << "warning: " << vga::human_bytes(gguf.trailing_bytes())
              << " behind the last tensor belong to nothing\n";
  }
  const Seen seen = look_at(gguf, flags);
  if (flags.check_tensors)
    return vga::check_tensors(gguf, seen.config ? &*seen.config : nullptr) == 0 ? 0 : 1;
  const auto print = flags.json ? print_json : print_text;
  print(seen, flags.context);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Show what a GGUF file holds: metadata, attention gate, tensors, and the memory it needs; "
      "of\n"
      "an adapter what it changes.\n\n"
      "  vga-inspect stories.gguf\n"
      "  vga-inspect stories.gguf --adapter mine.gguf\n"
      "  vga-inspect stories.gguf --context 32768 --json | jq .memory",
      "vga-inspect");
  Flags flags;
  app.add_option("file", flags.file, "GGUF file")->required()->type_name("FILE");
  app.add_option("-c,--context", flags.context, "Context to compute the memory for")
      ->check(CLI::Range(size_t{1}, vga::max_context))
      ->type_name("N");
  vga::add_adapters_to(app, flags.adapters);
  app.add_flag("--json", flags.json, "Print JSON");
  app.add_flag("--check-tensors", flags.check_tensors,
               "Look for NaN and infinity in the weights, and for keys and values that an f16 "
               "cache may not hold; status 1 if there are any")
      ->excludes("--adapter");
  return vga::run_program(app, argc, argv, [&] { return inspect(flags); });
}
