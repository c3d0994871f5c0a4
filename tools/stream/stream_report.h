#pragma once

#include <span>
#include <string>
#include <vector>

#include "common/attention_probe.h"
#include "stream/stream_policy.h"

namespace vga {

/// Whether a model needs its first tokens, judged by windows with 0 and with 4 kept.
struct StreamVerdict {
  enum class Kind {
    sink_free,   // ppl(0 kept) <= 1.02 ppl(4 kept), no stretch of W tokens above 1.2 times
    nearly,      // ppl(0 kept) <= 1.2 ppl(4 kept)
    needs_kept,  // neither
  };
  Kind kind;
  size_t needs_keep;     // the smallest number of kept tokens tried that meets the first rule
  double ratio;          // ppl(0 kept) / ppl(4 kept)
  double worst_stretch;  // highest ratio of one stretch of W tokens
  size_t worst_at;       // position where that one begins
};

constexpr size_t reference_keep = 4;

std::string_view name(StreamVerdict::Kind kind);
/// `policies` hold windows with 0 and with reference_keep kept tokens that have read the same text.
StreamVerdict judge(std::span<const StreamPolicy> policies, size_t window);

/// What a run has to say besides its policies.
struct StreamRun {
  std::string model;
  size_t window = 0;
  size_t trained_context = 0;
  size_t tokens = 0;
  uint64_t memory_filled = 0;  // of the process when the windows had filled, 0 if they did not
  uint64_t memory_end = 0;     // mapped files are not counted
  std::vector<FirstTokenUse> layers = {};
  std::string layer_windows = {};  // what layer_windows() says
  std::string layer_mixers = {};   // what layer_mixers() says
};

/// One line per policy: tokens, perplexity so far and over the last W tokens, speed, memory.
std::string policy_table(std::span<const StreamPolicy> policies);
/// The table with the verdict and its reasons, for people.
std::string text_report(const StreamRun& run, std::span<const StreamPolicy> policies);
std::string json_report(const StreamRun& run, std::span<const StreamPolicy> policies);
/// One row per policy and stretch of W tokens: perplexity so far and of the stretch.
std::string csv_report(std::span<const StreamPolicy> policies);
/// An SVG: perplexity so far over position, one curve per policy, told apart by dashes and marks.
std::string svg_plot(const StreamRun& run, std::span<const StreamPolicy> policies);

}  // namespace vga
