#include "common/program.h"

#include <array>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <new>
#include <random>

#include <unistd.h>

#include "base/text.h"
#include "common/layers.h"
#include "common/reference.h"
#include "common/terminal.h"
#include "cpu/kernels.h"
#include "cpu/threads.h"
#include "tokenizer/pretokenizer.h"
#include "vulkan/devices.h"

namespace vga {
namespace {

void print_devices() {
  constexpr std::array types = {"discrete", "integrated", "virtual", "cpu", "other"};
  std::cout << "cpu\t" << cpu::best_kernels().name << '\n';
  try {
    const std::vector<vulkan::DeviceInfo> devices = vulkan::devices();
    for (size_t i = 0; i < devices.size(); ++i) {
      const vulkan::DeviceInfo& d = devices[i];
      std::cout << "vulkan:" << i << '\t' << printable(d.name) << ", "
                << types[static_cast<size_t>(d.type)] << ", " << (d.memory >> 20) << " MiB, "
                << (d.free >> 20) << " MiB free, " << printable(d.driver);
      if (!d.unfit.empty()) std::cout << ", cannot be used: " << d.unfit;
      std::cout << '\n';
    }
  } catch (const Error& error) {
    std::cerr << printable(error.what()) << '\n';
  }
}

bool has_no_mmap = false;  // this program has a flag --no-mmap; written before the handler is set

/// A mapped file that another program cut off: nothing can be saved, but it can be explained.
void on_bus_error(int) {
  const std::string_view message =
      has_no_mmap
          ? "error: a mapped file became shorter while it was in use; --no-mmap avoids this\n"
          : "error: a mapped file became shorter while it was in use\n";
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, message.data(), message.size());
  ::_exit(1);
}

/// "FILE" or "FILE:SCALE"; what follows a colon is a part of the name unless it is a number.
AdapterOptions parse_adapter(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == text.npos || colon + 1 == text.size()) return {text};
  float scale = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, scale);
  if (error != std::errc() || stop != end) return {text};
  return {text.substr(0, colon), scale};
}

/// What an installation is made with; no group, so --help does not list them.
void add_reference_to(CLI::App& app) {
  app.add_flag_callback(
         "--man-page",
         [&app] {
           std::cout << man_page(app, app.get_name(), VGA_VERSION);
           throw CLI::Success();
         },
         "Print the manual page and exit")
      ->trigger_on_parse()
      ->group("");
  app.add_option_function<std::string>(
         "--completion",
         [&app](const std::string& shell) {
           std::cout << completion(app, app.get_name(), shell);
           throw CLI::Success();
         },
         "Print completion for bash, zsh or fish and exit")
      ->trigger_on_parse()
      ->type_name("SHELL")
      ->group("");
}

}  // namespace

void ModelFlags::add_to(CLI::App& app) {
  app.add_option("-m,--model", file, "GGUF file with the model")->required()->type_name("FILE");
  app.add_option_function<size_t>(
         "-c,--context",
         [this](size_t context) {
           session.context = context;
           context_given = true;
         },
         "Tokens the KV cache holds (default: what the model was trained for)")
      ->check(CLI::Range(int64_t{0}, int64_t{max_context}))
      ->type_name("N");
  add_threads_to(app, session.n_threads);
  app.add_option_function<std::string>(
         "--cache-type",
         [this](const std::string& type) { session.cache_type = *dtype_from_name(type); },
         "Precision of the KV cache: f16 (default), f32 or q8_0")
      ->check(CLI::IsMember({"f16", "f32", "q8_0"}))
      ->type_name("TYPE");
  app.add_flag_callback(
      "--no-mmap", [this] { model.mmap = false; },
      "Read the file into memory instead of mapping it");
  add_pre_to(app, model.pre);
  add_adapters_to(app, model.adapters);
  add_device_to(app, model);
}

void ModelFlags::add_window_to(CLI::App& app, const std::string& keep_by_default) {
  const std::string group = "Streaming";
  auto* window = app.add_option("--window", session.window,
                                "Go on for ever in constant memory: each token sees the last W "
                                "tokens, what left the window is forgotten")
                     ->check(CLI::Range(int64_t{1}, int64_t{max_context}))
                     ->excludes("--context")
                     ->type_name("W")
                     ->group(group);
  app.add_option_function<size_t>(
         "--keep",
         [this](size_t keep) {
           session.keep = keep;
           keep_given = true;
         },
         "Of these W the first N tokens are never forgotten (default: " + keep_by_default + ")")
      ->check(CLI::Range(int64_t{0}, int64_t{max_context}))
      ->needs(window)
      ->type_name("N")
      ->group(group);
}

Model ModelFlags::load() const {
  if (cpu::supported_kernels().size() == 1) {
    std::cerr << "note: this CPU lacks AVX2, FMA or F16C; running the slow scalar path\n";
  }
  ModelOptions options = model;
  options.session = session;
  Model loaded = load_model(file, options);
  const std::string mixers = layer_mixers(loaded.config());
  if (session.window > 0 && !mixers.empty()) std::cerr << "note: " << mixers << '\n';
  const size_t trained = loaded.config().context_length;
  if (session.window >= trained) {
    std::cerr << "note: the model was trained on " << trained
              << " tokens at once; a window should be shorter, found " << session.window << '\n';
  } else if (context_given && session.context > trained) {
    std::cerr << "note: the model was trained on " << trained << " tokens at once, not on "
              << session.context << "; what it says beyond them may make no sense\n";
  }
  return loaded;
}

CLI::Validator whole_number() {
  return {[](const std::string& text) {
            return text.starts_with('-') ? "wanted 0 or more, found " + text : std::string();
          },
          ""};
}

void add_threads_to(CLI::App& app, size_t& n_threads) {
  n_threads = cpu::default_threads();
  app.add_option("-t,--threads", n_threads, "CPU threads (default: one per physical core)")
      ->check(CLI::Range(size_t{1}, cpu::max_threads))
      ->type_name("N");
}

void add_pre_to(CLI::App& app, std::string& pre) {
  app.add_option_function<std::string>(
         "--pre",
         [&pre](const std::string& name) {
           pre = name;
           std::cerr << "note: text is cut into words as --pre " << printable(name)
                     << " says, not as the file does\n";
         },
         "Cut text into words as this pre-tokenizer does, where a file of byte-level BPE names "
         "none "
         "or the wrong one: " +
             Pretokenizer::names())
      ->type_name("NAME");
}

void add_adapters_to(CLI::App& app, std::vector<AdapterOptions>& adapters) {
  app.add_option_function<std::vector<std::string>>(
         "--adapter",
         [&adapters](const std::vector<std::string>& texts) {
           for (const std::string& text : texts) adapters.push_back(parse_adapter(text));
         },
         "Change the model by this adapter, a GGUF file (LoRA, maybe with a gate); its updates "
         "times SCALE (default: 1). May be repeated")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("FILE[:SCALE]");
}

void add_device_to(CLI::App& app, ModelOptions& options) {
  const std::string group = "Device";
  app.add_option(
         "--device", options.device,
         "Where to compute: cpu; vulkan or vulkan:N; a part of a device's name; auto, a GPU "
         "if the model fits on one (default: what the environment variable VGA_DEVICE says, else "
         "cpu)")
      ->type_name("WHERE")
      ->group(group);
  app.add_option("--gpu-layers", options.device_layers,
                 "Put the first N layers there and leave the rest on the CPU (default: all)")
      ->check(whole_number())
      ->type_name("N")
      ->group(group);
  app.add_flag_callback(
         "--list-devices",
         [] {
           print_devices();
           throw CLI::Success();
         },
         "Print what --device can choose from, and end")
      ->trigger_on_parse()
      ->group(group);
}

Model load_model(const std::string& file, const ModelOptions& options) {
  std::optional<Progress> progress;
  ModelOptions watched = options;
  watched.progress = [&](uint64_t done, uint64_t all) {
    if (!progress) progress.emplace("to the device", all >> 20);
    progress->update(done >> 20, "MiB");
  };
  Model loaded = Model::load(file, watched);
  progress.reset();
  if (!loaded.why_cpu().empty()) {
    std::cerr << "note: computing on the CPU: " << printable(loaded.why_cpu()) << '\n';
  }
  return loaded;
}

void SamplerFlags::add_to(CLI::App& app) {
  const std::string group = "Sampling";
  app.add_option("--temp", options.temperature,
                 "Temperature; 0 always takes the likeliest token. These apply in the order "
                 "repeat-penalty, top-k, top-p, min-p, temp: what may be drawn does not depend on "
                 "the temperature")
      ->capture_default_str()
      ->group(group);
  app.add_option("--top-k", options.top_k, "Choose among the K likeliest tokens; 0: all")
      ->check(whole_number())
      ->capture_default_str()
      ->group(group);
  app.add_option("--top-p", options.top_p, "Choose among the likeliest that sum up to P")
      ->capture_default_str()
      ->group(group);
  app.add_option("--min-p", options.min_p, "Drop tokens below P times the likeliest; 0: none")
      ->capture_default_str()
      ->group(group);
  app.add_option("--repeat-penalty", options.repeat_penalty, "Above 1: discourage repetition")
      ->capture_default_str()
      ->group(group);
  app.add_option("--repeat-last", options.repeat_last, "Tokens the repetition penalty looks back")
      ->check(whole_number())
      ->capture_default_str()
      ->group(group);
  app.add_option_function<std::string>(
         "--seed",
         [this](const std::string& text) {
           if (text == "-1") {
             seed_.reset();
             return;
           }
           uint64_t seed = 0;
           const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
           if (error != std::errc() || end != text.data() + text.size()) {
             throw CLI::ValidationError(
                 "--seed", "wanted -1, or 0 to " + std::to_string(UINT64_MAX) + ", found " + text);
           }
           seed_ = seed;
         },
         "The same seed gives the same text; -1: random (default)")
      ->type_name("N")
      ->group(group);
}

SamplerOptions SamplerFlags::resolve() const {
  SamplerOptions resolved = options;
  // 32 bits are plenty and can be typed back from the statistics.
  resolved.seed = seed_ ? *seed_ : std::random_device{}();
  validate(resolved);
  return resolved;
}

void check_tokens(std::string_view flag, std::span<const Token> tokens, const Model& model) {
  const auto n = static_cast<Token>(model.config().vocab_size);
  for (const Token token : tokens) {
    if (token < 0 || token >= n) {
      throw Error(flag, "wanted ids from 0 to " + std::to_string(n - 1) + ", found " +
                            std::to_string(token));
    }
  }
}

void note_two_bos(std::span<const Token> tokens, const Tokenizer& tokenizer) {
  const std::optional<Token> bos = tokenizer.bos();
  if (!bos || tokens.size() < 2 || tokens[0] != *bos || tokens[1] != *bos) return;
  const std::string piece = printable(tokenizer.piece(*bos));
  std::cerr << "note: the text starts with two " << piece << ", of which models know one"
            << (tokenizer.adds_bos() ? "; this one gets it without being told\n" : "\n");
}

void check_stdout() {
  // Some is written by printf().
  if (!std::cout.flush() || std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    throw Error("stdout", "cannot write");
  }
}

int run_program(CLI::App& app, int argc, char** argv, const std::function<int()>& body) {
  has_no_mmap = app.get_option_no_throw("--no-mmap") != nullptr;
  std::signal(SIGBUS, on_bus_error);
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of write()
  app.set_version_flag("--version", app.get_name() + " " VGA_VERSION, "Print the version and exit");
  add_reference_to(app);
  try {
    app.parse(argc, argv);
    const int status = body();
    check_stdout();
    return status;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help and its like
    std::cerr << app.get_name() << ": error: " << printable(error.what()) << "; see --help\n";
  } catch (const std::bad_alloc&) {
    std::cerr << app.get_name() << ": error: out of memory"
              << (app.get_option_no_throw("--context") != nullptr
                      ? "; a shorter context (-c) or a smaller --cache-type takes less\n"
                      : "\n");
  } catch (const std::exception& error) {
    std::cerr << app.get_name() << ": error: " << printable(error.what()) << '\n';
  }
  return 1;
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value < 10 ? "%.2f" : value < 100 ? "%.1f" : "%.0f", value);
  return text;
}

}  // namespace vga
