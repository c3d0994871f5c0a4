#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "vga/dtype.h"

namespace vga {

/// As many layers as the model has; llama-bench says -1.
constexpr size_t all_layers = std::numeric_limits<size_t>::max();

/// The numbers in `text`, a comma list of N, FIRST-LAST, FIRST-LAST+STEP and FIRST-LAST*FACTOR as
/// llama-bench has them: "1,2", "0-4096+1024", "16-512*2". An Error naming `flag` for anything
/// else, for a range that does not rise and for more than 1000 numbers.
std::vector<size_t> read_numbers(std::string_view flag, std::string_view text);

/// What to measure: every combination of the lists.
struct BenchFlags {
  enum class Output { none, md, csv, json, jsonl, sql };

  std::vector<std::string> models;
  std::vector<size_t> n_prompt{512};              // tokens of a prefill test; 0: none
  std::vector<size_t> n_gen{128};                 // tokens of a decode test; 0: none
  std::vector<std::pair<size_t, size_t>> n_both;  // tokens of tests that prefill, then decode
  std::vector<size_t> n_depth{0};                 // tokens in the cache before a test
  std::vector<size_t> n_sequences{1};             // sequences that a test is of
  std::vector<size_t> n_batch{2048};              // tokens handed over at once
  std::vector<size_t> n_ubatch;                   // of those, rows computed at once
  std::vector<size_t> n_threads;
  std::vector<size_t> windows{0};  // tokens that a sliding window sees; 0: no window
  size_t keep = 0;                 // with windows: of these the first, kept for good
  std::vector<DType> key_types;
  std::vector<DType> value_types;
  std::vector<std::string> load_modes{"auto"};  // "auto" and "mmap" map the file, "none" reads it
  std::vector<size_t> gpu_layers;               // layers on the device; empty: --gpu-layers
  std::vector<int> flash_attention{-1};         // 1: wanted, 0: not, -1: as it comes
  size_t repetitions = 5;
  size_t delay = 0;  // seconds to wait before each test
  bool warmup = true;
  bool progress = false;
  bool on_device = false;            // not on the CPU alone
  std::vector<std::string> ignored;  // llama-bench's flags that were given and mean nothing here
  Output output = Output::md;
  Output output_to_stderr = Output::none;

  /// Sets the defaults that depend on the machine or the runtime.
  BenchFlags();

  void add_to(CLI::App& app);
  /// What keys and values are stored as. An Error if they shall differ: a cache has one type.
  std::vector<DType> cache_types() const;
  /// What of all this is not as somebody who knows llama-bench expects, a line each.
  std::vector<std::string> notes() const;
};

/// llama-bench has flags of several letters behind one dash (-ctk), which CLI11 does not know, and
/// takes --cache_type_k for --cache-type-k: makes them long ones with dashes before the command
/// line is parsed.
void spell_out_flags(char** argv);

}  // namespace vga
