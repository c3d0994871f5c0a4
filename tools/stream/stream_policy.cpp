#include "stream/stream_policy.h"

#include <algorithm>
#include <numeric>

#include "base/clock.h"
#include "common/terminal.h"

namespace vga {

StreamPolicy::StreamPolicy(const Model& model, Kind kind, const SessionOptions& options,
                           size_t window, size_t n_tokens)
    : kind_(kind),
      window_(window),
      n_tokens_(n_tokens),
      session_(model, options),
      stretches_(n_tokens / window + 1),
      seconds_(n_tokens / window + 1) {}

std::string_view StreamPolicy::name() const {
  switch (kind_) {
    case Kind::window:
      return "window";
    case Kind::full:
      return "full";
    case Kind::recompute:
      return "recompute";
  }
  return "";
}

std::string StreamPolicy::label() const {
  if (kind_ == Kind::window) return "window, " + std::to_string(keep()) + " kept";
  return kind_ == Kind::full ? "full attention" : "recomputed";
}

/// Evenly spread behind the point from where windows slide.
bool StreamPolicy::is_sample(size_t position) const {
  const size_t step = std::max<size_t>(1, (n_tokens_ - std::min(n_tokens_, window_)) / n_samples);
  return position >= window_ && (position - window_) % step == 0;
}

std::span<const float> StreamPolicy::run(std::span<const Token> text, size_t begin, size_t end) {
  const auto start = Clock::now();
  logits_ = {};
  if (kind_ == Kind::recompute) {
    sample_logits_.clear();
    for (size_t position = begin; position < end; ++position) {
      if (!is_sample(position)) continue;
      session_.truncate(0);
      session_.prefill(text.subspan(position + 1 - window_, window_), 0,
                       [](size_t) { return !interrupted(); });
      if (interrupted()) break;
      const auto logits = session_.logits();
      sample_logits_.insert(sample_logits_.end(), logits.begin(), logits.end());
    }
  } else {
    rows_.clear();
    for (size_t i = begin; i < end; ++i) {
      if (static_cast<int64_t>(i) - session_.length() >= session_.room()) break;
      rows_.push_back({text[i], static_cast<int64_t>(i), 0, true});
    }
    if (!rows_.empty()) logits_ = session_.decode(rows_);
  }
  seconds_[begin / window_] += seconds_since(start);
  return logits_;
}

void StreamPolicy::add(size_t position, double nll) {
  total_.add(nll);
  stretches_[position / window_].add(nll);
  if (is_sample(position)) sampled_.add(nll);
}

void StreamPolicy::score(std::span<const Token> text, size_t begin, size_t end) {
  size_t taken = 0;
  const auto next_logits = [&](std::span<const float> all, size_t n) {
    const size_t n_vocab = all.size() / n;
    return all.subspan(taken++ * n_vocab, n_vocab);
  };
  if (kind_ == Kind::recompute) {
    size_t n = 0;
    for (size_t i = begin; i < end; ++i) n += is_sample(i) ? 1 : 0;
    for (size_t i = begin; i < end; ++i) {
      if (is_sample(i))
        add(i, negative_log_likelihood(next_logits(sample_logits_, n), text[i + 1]));
    }
    return;
  }
  for (size_t i = 0; i < rows_.size(); ++i) {
    add(begin + i,
        negative_log_likelihood(next_logits(logits_, rows_.size()), text[begin + i + 1]));
  }
}

std::optional<double> StreamPolicy::last_stretch() const {
  const size_t complete = total_.tokens / window_;
  if (kind_ == Kind::recompute || complete == 0) return std::nullopt;
  return stretches_[complete - 1].perplexity();
}

std::vector<StreamPolicy::Point> StreamPolicy::curve() const {
  std::vector<Point> points;
  Score so_far;
  for (size_t i = 0; i < stretches_.size(); ++i) {
    const Score& stretch = stretches_[i];
    if (stretch.tokens == 0) continue;
    so_far.tokens += stretch.tokens;
    so_far.sum += stretch.sum;
    const size_t read =
        kind_ == Kind::recompute ? std::min((i + 1) * window_, n_tokens_) : so_far.tokens;
    points.push_back({read, so_far.tokens, so_far.perplexity(), stretch.perplexity()});
  }
  return points;
}

double StreamPolicy::seconds_per_token(size_t first, size_t n) const {
  std::vector<double> each;
  for (size_t i = first; i < first + n; ++i) {
    if (stretches_[i].tokens > 0) {
      each.push_back(seconds_[i] / static_cast<double>(stretches_[i].tokens));
    }
  }
  if (each.empty()) return 0;
  std::ranges::nth_element(each, each.begin() + static_cast<std::ptrdiff_t>(each.size() / 2));
  return each[each.size() / 2];
}

double StreamPolicy::tokens_per_second() const {
  const double seconds = std::accumulate(seconds_.begin(), seconds_.end(), 0.0);
  return seconds > 0 ? static_cast<double>(total_.tokens) / seconds : 0;
}

uint64_t StreamPolicy::resident_bytes() const {
  // Rings are a batch longer than what is seen; what was never written takes no memory.
  const auto held = static_cast<double>(session_.length());
  const auto capacity =
      static_cast<double>(session_.context() + (session_.slides() ? session_.max_batch() : 0));
  return static_cast<uint64_t>(static_cast<double>(session_.cache_bytes()) *
                               std::min(1.0, held / capacity));
}

}  // namespace vga
