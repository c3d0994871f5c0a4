#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <map>
#include <string>
#include <vector>

#include "bench/bench_flags.h"
#include "vga/dtype.h"

namespace vga {

/// How a model is loaded.
struct BenchLoad {
  std::string file;
  std::string mode;    // one of BenchFlags::load_modes
  std::string device;  // as it was asked for: "cpu", "vulkan:1"
  size_t gpu_layers;   // layers there; all_layers: as many as it has
};

/// What a session is opened with.
struct BenchSetup {
  size_t n_batch;
  size_t n_ubatch;
  size_t n_threads;
  DType cache_type;
  size_t window;  // 0: none
  size_t keep;
  int flash_attention;  // 1: asked for; -1: not, but attention is always one pass over the cache
};

/// What is timed: `n_prompt` tokens in one prefill, then `n_gen` tokens one by one, after `n_depth`
/// tokens that are not timed; all that in each of some sequences, which decode together.
struct BenchTest {
  size_t n_prompt;
  size_t n_gen;
  size_t n_depth;
  size_t n_sequences = 1;

  size_t length() const { return n_depth + n_prompt + n_gen; }
  /// Tokens of all sequences.
  size_t timed_tokens() const { return n_sequences * (n_prompt + n_gen); }
  /// "pp512", "tg128 @ d2048", "pp512+tg128", "tg128 x 8".
  std::string name() const;
};

struct BenchResult {
  BenchLoad load;
  std::string model_type;  // "llama 135M Q8_0"
  uint64_t model_bytes;
  uint64_t parameters;
  std::string runs_on;  // "cpu avx2, 2 threads"
  BenchSetup setup;
  BenchTest test;
  std::string test_time;             // when it began: "2026-11-24T10:00:00Z"
  std::vector<uint64_t> samples_ns;  // one for each repetition
  /// Bytes of weights and KV cache that a repetition reads; 0 for tests that prefill, where one
  /// read serves many tokens.
  uint64_t bytes_read;
  double memory_bandwidth;  // bytes per second that n_threads can read
  /// Per token, the time in which no device was waited for: recording, submitting, reading back.
  double host_ns_per_token = 0;  // 0: all was computed on the host
};

/// Prints results as they come, in llama-bench's formats and under its names. Behind these stand
/// ours, null (CSV: empty) where they mean nothing: runs_on, n_sequences, window, keep, gb_per_s,
/// bandwidth_gb_per_s, bandwidth_share and host_ns_per_token. SQL has llama-bench's alone, so that
/// the rows of both programs fit into one table.
///
/// As there, n_gpu_layers, load_mode and flash_attn are what was asked for, which is what scripts
/// join rows by: -1 and "auto" leave it to the program. What llama-bench can set and nobody can
/// here has its default.
class BenchReport {
 public:
  BenchReport(const BenchFlags& flags, BenchFlags::Output output, std::ostream& out);

  void add(const BenchResult& result);
  /// Closes what add() left open.
  void finish();

 private:
  struct Column {
    std::string title;
    int width;  // characters; negative: aligned to the left
    std::function<std::string(const BenchResult&)> text;
  };
  void print_row(const std::function<std::string(const Column&)>& text) const;

  BenchFlags::Output output_;
  std::ostream& out_;
  std::vector<Column> columns_;  // of the table
  size_t n_results_ = 0;
  std::string runs_on_;
  std::map<size_t, double> bandwidths_;  // by number of threads
};

}  // namespace vga
