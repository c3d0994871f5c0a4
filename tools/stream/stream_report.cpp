#include "stream/stream_report.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "common/format.h"
#include "common/program.h"

namespace vga {
namespace {

constexpr double free_ratio = 1.02;
constexpr double nearly_ratio = 1.2;
constexpr double stretch_ratio = 1.2;
constexpr size_t timed_tokens = 10'000;

/// How a window with some kept tokens compares with the reference.
struct Comparison {
  double ratio = 1;
  double worst_stretch = 1;
  size_t worst_at = 0;

  bool suffices() const { return ratio <= free_ratio && worst_stretch <= stretch_ratio; }
};

Comparison compare(const StreamPolicy& policy, const StreamPolicy& reference, size_t window) {
  Comparison found{.ratio = policy.total().perplexity() / reference.total().perplexity()};
  for (size_t i = 0; i < policy.stretches().size(); ++i) {
    const Score& stretch = policy.stretches()[i];
    if (stretch.tokens < window) break;
    const double ratio = stretch.perplexity() / reference.stretches()[i].perplexity();
    if (ratio > found.worst_stretch) {
      found.worst_stretch = ratio;
      found.worst_at = i * window;
    }
  }
  return found;
}

/// Whether one of the policies scores samples alone.
bool compares_samples(std::span<const StreamPolicy> policies) {
  return std::ranges::any_of(
      policies, [](const StreamPolicy& p) { return p.kind() == StreamPolicy::Kind::recompute; });
}

const StreamPolicy& window_with(std::span<const StreamPolicy> policies, size_t keep) {
  return *std::ranges::find_if(policies, [&](const StreamPolicy& p) {
    return p.kind() == StreamPolicy::Kind::window && p.keep() == keep;
  });
}

/// Seconds per token of the first and the last 10,000 tokens read while the window slid; nothing if
/// the text was too short for both.
struct Pace {
  double first;
  double last;
};
std::optional<Pace> pace(const StreamPolicy& policy, size_t window) {
  if (policy.kind() != StreamPolicy::Kind::window) return std::nullopt;
  const size_t n = (timed_tokens + window - 1) / window;
  const size_t complete = policy.total().tokens / window;
  if (complete < 1 + 2 * n) return std::nullopt;
  return Pace{policy.seconds_per_token(1, n), policy.seconds_per_token(complete - n, n)};
}

std::string explain(const StreamVerdict& verdict, size_t window) {
  std::string text = "verdict: ";
  switch (verdict.kind) {
    case StreamVerdict::Kind::sink_free:
      text += "sink-free: it streams with nothing kept";
      break;
    case StreamVerdict::Kind::nearly:
      text += format("nearly sink-free: %zu kept suffice", verdict.needs_keep);
      break;
    case StreamVerdict::Kind::needs_kept:
      text += format("needs kept tokens: %zu suffice", verdict.needs_keep);
      break;
  }
  text += format(
      "\n  perplexity with 0 kept / with %zu kept: %.4f (sink-free up to %.2f, nearly up "
      "to %.2f)\n",
      reference_keep, verdict.ratio, free_ratio, nearly_ratio);
  text += format("  worst stretch of %zu tokens: %.4f, from token %zu on (sink-free up to %.2f)\n",
                 window, verdict.worst_stretch, verdict.worst_at, stretch_ratio);
  return text;
}

}  // namespace

std::string_view name(StreamVerdict::Kind kind) {
  switch (kind) {
    case StreamVerdict::Kind::sink_free:
      return "sink-free";
    case StreamVerdict::Kind::nearly:
      return "nearly";
    case StreamVerdict::Kind::needs_kept:
      return "needs-kept";
  }
  return "";
}

StreamVerdict judge(std::span<const StreamPolicy> policies, size_t window) {
  const StreamPolicy& reference = window_with(policies, reference_keep);
  const Comparison none = compare(window_with(policies, 0), reference, window);
  StreamVerdict verdict{.kind = none.suffices()              ? StreamVerdict::Kind::sink_free
                                : none.ratio <= nearly_ratio ? StreamVerdict::Kind::nearly
                                                             : StreamVerdict::Kind::needs_kept,
                        .needs_keep = reference_keep,
                        .ratio = none.ratio,
                        .worst_stretch = none.worst_stretch,
                        .worst_at = none.worst_at};
  for (const StreamPolicy& policy : policies) {
    if (policy.kind() == StreamPolicy::Kind::window &&
        compare(policy, reference, window).suffices()) {
      verdict.needs_keep = std::min(verdict.needs_keep, policy.keep());
    }
  }
  return verdict;
}

std::string policy_table(std::span<const StreamPolicy> policies) {
  const bool samples = std::ranges::any_of(
      policies, [](const StreamPolicy& p) { return p.kind() == StreamPolicy::Kind::recompute; });
  std::string text = format("%-18s %10s %12s %12s", "policy", "tokens", "perplexity", "last W");
  if (samples) text += format(" %12s", "at samples");
  text += format(" %10s %12s\n", "tok/s", "KV cache");
  for (const StreamPolicy& p : policies) {
    const auto number = [](bool known, double value) {
      return known ? format("%12.4f", value) : format("%12s", "-");
    };
    text += format("%-18s %10zu ", p.label().c_str(), p.total().tokens);
    text += number(p.total().tokens > 0, p.total().perplexity()) + " ";
    text += number(p.last_stretch().has_value(), p.last_stretch().value_or(0));
    if (samples) text += " " + number(p.sampled().tokens > 0, p.sampled().perplexity());
    text += format(" %10s %12s\n", short_number(p.tokens_per_second()).c_str(),
                   human_bytes(p.resident_bytes()).c_str());
  }
  return text;
}

std::string text_report(const StreamRun& run, std::span<const StreamPolicy> policies) {
  std::string text =
      policy_table(policies) + "\n" + explain(judge(policies, run.window), run.window);
  for (const StreamPolicy& policy : policies) {
    if (const auto p = pace(policy, run.window)) {
      text += format(
          "  %s: %.1f us a token in the first %zu after the window filled, %.1f in the "
          "last (%+.1f %%)\n",
          policy.label().c_str(), 1e6 * p->first, timed_tokens, 1e6 * p->last,
          100 * (p->last / p->first - 1));
    }
  }
  if (run.memory_filled > 0) {
    text +=
        "  memory of the process when the windows had filled: " + human_bytes(run.memory_filled) +
        ", at the end: " + human_bytes(run.memory_end) + "\n";
  }
  if (!run.layer_windows.empty()) {
    text +=
        "  " + run.layer_windows +
        " of their own: such a layer keeps no first tokens, and where its window is the smaller "
        "one it counts\n";
  }
  if (!run.layer_mixers.empty()) {
    text += "  " + run.layer_mixers + ": the verdict speaks of the others, with that help\n";
  }
  if (!run.layers.empty()) {
    text +=
        "\nlayer  attention on the first token  gate x attention  norm of its value / others'\n";
    for (const FirstTokenUse& use : run.layers) {
      text += format("%5zu  %28.4f  %16.4f  %26.3f\n", use.layer, use.first_attention,
                     use.gated_first_attention, use.value_norm_ratio);
    }
  }
  return text;
}

std::string json_report(const StreamRun& run, std::span<const StreamPolicy> policies) {
  using nlohmann::ordered_json;
  const StreamVerdict verdict = judge(policies, run.window);
  ordered_json out = {{"model", run.model},
                      {"trained_context", run.trained_context},
                      {"window", run.window},
                      {"layer_windows", run.layer_windows},
                      {"layer_mixers", run.layer_mixers},
                      {"tokens", run.tokens},
                      {"policies", ordered_json::array()}};
  for (const StreamPolicy& p : policies) {
    ordered_json row = {{"policy", p.name()},
                        {"keep", p.keep()},
                        {"tokens", p.total().tokens},
                        {"ppl", p.total().perplexity()},
                        {"tokens_per_second", p.tokens_per_second()},
                        {"resident_bytes", p.resident_bytes()}};
    if (p.total().tokens == 0) row["ppl"] = nullptr;
    if (compares_samples(policies)) row["ppl_at_samples"] = p.sampled().perplexity();
    if (const auto seconds = pace(p, run.window)) {
      row["seconds_per_token_first_10000"] = seconds->first;
      row["seconds_per_token_last_10000"] = seconds->last;
    }
    out["policies"].push_back(std::move(row));
  }
  out["verdict"] = name(verdict.kind);
  out["needs_keep"] = verdict.needs_keep;
  out["ratio"] = verdict.ratio;
  out["worst_stretch_ratio"] = verdict.worst_stretch;
  out["worst_stretch_position"] = verdict.worst_at;
  if (run.memory_filled > 0) out["process_bytes_filled"] = run.memory_filled;
  out["process_bytes"] = run.memory_end;
  out["layers"] = ordered_json::array();
  for (const FirstTokenUse& use : run.layers) {
    out["layers"].push_back({{"layer", use.layer},
                             {"first_attention", use.first_attention},
                             {"gated_first_attention", use.gated_first_attention},
                             {"value_norm_ratio", use.value_norm_ratio}});
  }
  return out.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string csv_report(std::span<const StreamPolicy> policies) {
  std::string text = "tokens,policy,keep,ppl,ppl_stretch\n";
  for (const StreamPolicy& p : policies) {
    for (const StreamPolicy::Point& point : p.curve()) {
      text += format("%zu,%s,%zu,%.6g,%.6g\n", point.tokens, std::string(p.name()).c_str(),
                     p.keep(), point.perplexity, point.of_stretch);
    }
  }
  return text;
}

}  // namespace vga
