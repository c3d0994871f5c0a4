#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include "vga/vga.h"

/// What the programs in this folder share: common flags and a main() that reports errors.
namespace vga {

/// Which model to run and how.
struct ModelFlags {
  std::string file;
  SessionOptions session;
  ModelOptions model;
  bool keep_given = false;     // --keep was
  bool context_given = false;  // -c was

  /// Adds -m, -c, -t, --cache-type, --no-mmap, --pre, --adapter and add_device_to()'s.
  void add_to(CLI::App& app);
  /// Adds --window and --keep, for programs whose text may go on for ever. `keep_by_default` says
  /// what is kept without --keep.
  void add_window_to(CLI::App& app, const std::string& keep_by_default = "0");
  /// load_model(), for such a session; says on stderr if this CPU runs only the slow reference
  /// path, or if the window or the context asked for is as long as what the model was trained on.
  Model load() const;
};

/// For options without a sign, where a minus would make a huge number.
CLI::Validator whole_number();

/// Adds -t, 1 to cpu::max_threads; without it `n_threads` is what a session would take.
void add_threads_to(CLI::App& app, size_t& n_threads);

/// Adds --pre: ModelOptions::pre; says on stderr that it was given.
void add_pre_to(CLI::App& app, std::string& pre);

/// Adds --adapter FILE[:SCALE], which may be repeated.
void add_adapters_to(CLI::App& app, std::vector<AdapterOptions>& adapters);

/// Adds --device, --gpu-layers and --list-devices, which prints and ends the program.
void add_device_to(CLI::App& app, ModelOptions& options);

/// Loads a model, with progress on a terminal; says on stderr why --device auto took the CPU.
Model load_model(const std::string& file, const ModelOptions& options);

/// How tokens are chosen.
struct SamplerFlags {
  SamplerOptions options;

  /// Adds --temp, --top-k, --top-p, --min-p, --repeat-penalty, --repeat-last and --seed.
  void add_to(CLI::App& app);
  /// The options, checked; the seed is drawn from the system unless it was given.
  SamplerOptions resolve() const;
  bool has_seed() const { return seed_.has_value(); }

 private:
  std::optional<uint64_t> seed_;
};

/// Says on stderr if `tokens` start with the bos token twice: one was spelled out where it is
/// added.
void note_two_bos(std::span<const Token> tokens, const Tokenizer& tokenizer);

/// An Error naming `flag` unless all of these are tokens of the model.
void check_tokens(std::string_view flag, std::span<const Token> tokens, const Model& model);

/// An Error if something could not be written to stdout: for loops, as run_program() looks at the
/// end.
void check_stdout();

/// Parses the command line and runs `body`, whose result is the exit status. Errors, wrong usage
/// and that of check_stdout() among them, end as one line on stderr and status 1.
int run_program(CLI::App& app, int argc, char** argv, const std::function<int()>& body);

/// "123" with as many digits as make sense: 3 significant ones, at least to the unit.
std::string short_number(double value);

}  // namespace vga
