#include <algorithm>
#include <limits>
#include <optional>

#include "compute/forward.h"
#include "compute/kv_window.h"
#include "compute/rope.h"
#include "cpu/cpu_backend.h"
#include "cpu/threads.h"
#include "model/model.h"
#include "vga/vga.h"
#include "vulkan/devices.h"

namespace vga {
namespace {

/// Logits that are computed, and brought to the host, at once: those of a whole batch would take as
/// much memory as a small model. As many rows as matmul.comp takes for one reading of the weights.
constexpr size_t logits_rows = 64;

/// Without a window, one that never gets to slide.
KvWindow window_of(const Config& config, const SessionOptions& options) {
  if (options.window > 0) {
    return {static_cast<int64_t>(options.window), static_cast<int64_t>(options.keep)};
  }
  return {static_cast<int64_t>(options.context == 0 ? config.context_length : options.context)};
}

CacheShape cache_shape(const Config& config, const SessionOptions& options) {
  const KvWindow window = window_of(config, options);
  const auto n_ring = static_cast<size_t>(
      options.window > 0 ? window.ring_positions(options.max_batch) : window.size);
  return {.n_layers = config.n_layers,
          .n_lanes = options.n_sequences,
          .n_kept = static_cast<size_t>(window.keep),
          .n_ring = ((n_ring - 1) / cache_span + 1) * cache_span,
          .n_kv_heads = config.n_kv_heads,
          .head_dim = config.head_dim,
          .type = options.cache_type};
}

void validate(const SessionOptions& o, const Config& config) {
  const auto in_range = [](std::string_view option, size_t value, size_t min, size_t max) {
    if (value >= min && value <= max) return;
    throw Error(option, "wanted " + std::to_string(min) + " to " + std::to_string(max) +
                            ", found " + std::to_string(value));
  };
  in_range("context", o.context, 0, max_context);
  in_range("window", o.window, 0, max_context);
  if (o.window > 0 && o.context > 0) {
    throw Error("window", "a session has a context or a window, found both");
  }
  if (o.keep > 0 && o.keep >= o.window) {
    throw Error("keep", "wanted less than the window of " + std::to_string(o.window) +
                            " tokens, found " + std::to_string(o.keep));
  }
  in_range("sequences", o.n_sequences, 1, 4096);
  in_range("threads", o.n_threads, 0, cpu::max_threads);
  in_range("batch", o.max_batch, 1, 1 << 16);
  if (o.cache_type != DType::f16 && o.cache_type != DType::f32 && o.cache_type != DType::q8_0) {
    throw Error("cache type", "wanted f16, f32 or q8_0, found " + std::string(name(o.cache_type)));
  }
  if (config.head_dim % block_elements(o.cache_type) != 0) {
    throw Error("cache type", "q8_0 wants heads of a multiple of 32 elements, this model's have " +
                                  std::to_string(config.head_dim));
  }
  cache_bytes(config, o);
}

/// Brings what an Observer wants to see to host memory, and back what it changed.
class Probe : public ForwardObserver {
 public:
  Observer* observer = nullptr;
  size_t n_rows = 0;    // of the batch
  size_t n_wanted = 0;  // of them, which are left behind the last layer

  void see(Site site, size_t layer, Backend& ops, Buffer& x) override {
    if (!observer->wants(site)) return;
    values_.resize((site == Site::output_norm ? n_wanted : n_rows) * x.cols());
    ops.read(x, values_);
    if (observer->see(site, layer, values_)) ops.write(x, values_);
  }

 private:
  std::vector<float> values_;  // (rows, cols)
};

std::span<const float> rope_factors(const Weights& weights) {
  const Tensor& factors = weights.rope_factors;
  return {reinterpret_cast<const float*>(factors.data), factors.cols};
}

}  // namespace

uint64_t cache_bytes(const Config& config, const SessionOptions& options) {
  const CacheShape shape = cache_shape(config, options);
  const std::optional<uint64_t> bytes = shape.checked_bytes();
  if (!bytes) {
    throw Error("cache", "wanted less than 2^64 bytes, found " + std::to_string(shape.n_lanes) +
                             " sequences of " + std::to_string(shape.n_kept + shape.n_ring) +
                             " tokens");
  }
  return *bytes;
}

uint64_t session_bytes(const Config& c, const SessionOptions& options, size_t n_layers) {
  const auto buffer = [&](size_t rows, size_t cols) {
    return rows * vulkan::padded_cols(cols) * sizeof(float);
  };
  const size_t rows = options.max_batch;
  uint64_t bytes = cache_bytes(c, options) / c.n_layers * n_layers;
  bytes += 2 * buffer(rows, c.hidden_size) + 3 * buffer(rows, c.q_size()) +
           2 * buffer(rows, c.kv_size()) + buffer(rows, c.n_gates()) + 2 * buffer(rows, c.ffn_size);
  if (n_layers == c.n_layers) bytes += buffer(std::min(rows, logits_rows), c.vocab_size);
  return bytes;
}

struct Session::Impl {
  Impl(const Model& model, const SessionOptions& session_options)
      : config(model.impl_->config),
        weights(model.impl_->weights),
        unused(model.impl_->tokenizer ? model.impl_->tokenizer->unused()
                                      : std::span<const Token>()),
        options(session_options),
        shape(cache_shape(config, options)),
        window(window_of(config, options)),
        rope(config, rope_factors(weights)),
        sequences(options.n_sequences) {
    const size_t on_device = model.impl_->device_layers;
    if (on_device > 0) {
      stages.emplace_back(config, model.impl_->device->new_backend(), 0, on_device, shape,
                          options.max_batch);
    }
    if (on_device < config.n_layers) {
      stages.emplace_back(config, cpu::new_backend(options.n_threads, model.impl_->kernels),
                          on_device, config.n_layers, shape, options.max_batch);
    }
  }

  struct Sequence {
    int64_t length = 0;     // position of the next token
    int64_t forgotten = 0;  // positions before it are out of sight unless they are kept
    int64_t written = 0;    // one more than the highest position the cache has seen
  };

  bool slides() const { return options.window > 0; }
  Sequence& sequence(uint32_t index);
  void plan(std::span<const Row> rows);
  template <class Take>
  void each_logits(Take&& take);

  const Config& config;
  const Weights& weights;
  std::span<const Token> unused;  // tokens that are never chosen
  SessionOptions options;
  CacheShape shape;           // of all layers
  std::vector<Stage> stages;  // one after the other
  KvWindow window;
  Rope rope;
  std::vector<Sequence> sequences;  // (n_sequences)
  Probe probe;

  // The batch in progress.
  std::vector<BatchRow> rows_;        // (rows)
  std::vector<float> angles_;         // (rows, rope_dim / 2, 2)
  std::vector<float> kept_angles_;    // the same for queries that meet kept keys
  std::vector<uint32_t> wanted_;      // (n_wanted)
  std::vector<Sequence> next_;        // (n_sequences) once the batch is done
  size_t n_wanted_ = 0;               // rows whose logits can be had; none after an Error
  std::unique_ptr<Buffer> logits_;    // (up to logits_rows, vocab_size), grown when asked for more
  std::optional<size_t> in_logits_;   // the wanted row whose logits come first in there
  std::vector<float> host_logits_;    // (n_wanted, vocab_size)
  std::vector<Candidate> likeliest_;  // (n_wanted, k)
  std::vector<Candidate> usable_;     // of the last row, those that are not unused
  std::vector<float> usable_logits_;  // (vocab_size) of the last row, unused ones out of reach
};

Session::Impl::Sequence& Session::Impl::sequence(uint32_t index) {
  if (index >= sequences.size()) {
    throw Error("sequence", "wanted 0 to " + std::to_string(sequences.size() - 1) + ", found " +
                                std::to_string(index));
  }
  return sequences[index];
}

/// Checks the rows and works out angles and what each row sees.
void Session::Impl::plan(std::span<const Row> rows) {
  if (rows.empty() || rows.size() > options.max_batch) {
    throw Error("batch", "wanted 1 to " + std::to_string(options.max_batch) + " rows, found " +
                             std::to_string(rows.size()));
  }
  rows_.clear();
  angles_.clear();
  kept_angles_.clear();
  wanted_.clear();
  next_ = sequences;
  for (const Row& row : rows) {
    if (row.token < 0 || static_cast<size_t>(row.token) >= config.vocab_size) {
      throw Error("token", "wanted 0 to " + std::to_string(config.vocab_size - 1) + ", found " +
                               std::to_string(row.token));
    }
    sequence(row.sequence);
    Sequence& next = next_[row.sequence];
    if (row.position != next.length) {
      throw Error("position", "wanted " + std::to_string(next.length) + ", the end of sequence " +
                                  std::to_string(row.sequence) + ", found " +
                                  std::to_string(row.position));
    }
    if (!slides() && next.length >= window.size) {
      throw ContextFull("the context of " + std::to_string(window.size) + " tokens is full");
    }
    const KvWindow::View view = window.view(row.position, next.forgotten);
    ++next.length;
    next.written = std::max(next.written, next.length);
    if (row.wants_logits) wanted_.push_back(static_cast<uint32_t>(rows_.size()));
    rows_.push_back({row.token, row.sequence, row.position, view.first});
    rope.append(row.position, angles_);
    if (window.keep > 0) rope.append(view.index, kept_angles_);
  }
}

/// Computes the logits of the wanted rows piece by piece: take(first, n) finds those of a piece in
/// logits_.
template <class Take>
void Session::Impl::each_logits(Take&& take) {
  for (size_t first = 0; first < n_wanted_; first += logits_rows) {
    const size_t n = std::min(logits_rows, n_wanted_ - first);
    if (in_logits_ != first) {
      in_logits_.reset();
      if (logits_ == nullptr || logits_->rows() < n) {
        logits_.reset();  // its memory first
        logits_ = stages.back().ops->new_buffer(n, config.vocab_size);
      }
      project_logits(weights, stages.back(), n_wanted_, first, n, *logits_);
      in_logits_ = first;
    }
    take(first, n);
  }
}

Session::Session(const Model& model, const SessionOptions& options)
    : impl_((validate(options, model.config()), std::make_unique<Impl>(model, options))) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

size_t Session::context() const {
  return static_cast<size_t>(impl_->window.size);
}
bool Session::slides() const {
  return impl_->slides();
}
size_t Session::keep() const {
  return static_cast<size_t>(impl_->window.keep);
}
size_t Session::max_batch() const {
  return impl_->options.max_batch;
}
std::string Session::description() const {
  std::string text;
  for (const Stage& stage : impl_->stages) {
    if (!text.empty()) text += " + ";
    text += stage.ops->description();
    if (impl_->stages.size() > 1) {
      text += " (" + std::to_string(stage.end_layer - stage.first_layer) + " layers)";
    }
  }
  return text;
}
uint64_t Session::cache_bytes() const {
  return impl_->shape.bytes();
}

double Session::device_wait_seconds() const {
  double seconds = 0;
  for (const Stage& stage : impl_->stages) seconds += stage.ops->wait_seconds();
  return seconds;
}

int64_t Session::length(uint32_t sequence) const {
  return impl_->sequence(sequence).length;
}

int64_t Session::room(uint32_t sequence) const {
  if (impl_->slides()) return std::numeric_limits<int64_t>::max();
  return impl_->window.size - length(sequence);
}

void Session::truncate(int64_t length, uint32_t sequence) {
  Impl& s = *impl_;
  Impl::Sequence& held = s.sequence(sequence);
  if (length < 0 || length > held.length) {
    throw Error("length",
                "wanted 0 to " + std::to_string(held.length) + ", found " + std::to_string(length));
  }
  const auto n_ring = static_cast<int64_t>(s.shape.n_ring);
  const int64_t forgotten = std::min(held.forgotten, length);
  if (!s.window.holds(length, forgotten, n_ring, held.written)) {
    const int64_t least = held.written - n_ring + s.window.size - s.window.keep - 1;
    throw Error("length", "the window has slid over what a token at position " +
                              std::to_string(length) + " would see; wanted 0 to " +
                              std::to_string(s.window.keep) + ", or at least " +
                              std::to_string(least));
  }
  // What lies behind the end is simply written again.
  held.length = length;
  held.forgotten = forgotten;
  if (length <= s.window.keep) held.written = length;  // and all of the ring before it is seen
}

void Session::forget(int64_t position, uint32_t sequence) {
  Impl::Sequence& held = impl_->sequence(sequence);
  if (!slides()) throw Error("forget", "wanted a session with a window");
  if (position < 0 || position > held.length) {
    throw Error("forget", "wanted a position from 0 to " + std::to_string(held.length) +
                              ", found " + std::to_string(position));
  }
  held.forgotten = std::max(held.forgotten, position);
}

void Session::append(std::span<const Row> rows) {
  Impl& s = *impl_;
  s.n_wanted_ = 0;
  s.in_logits_.reset();
  s.plan(rows);
  s.probe.n_rows = rows.size();
  s.probe.n_wanted = s.wanted_.size();
  forward(
      s.config, s.weights, s.stages,
      {.rows = s.rows_, .angles = s.angles_, .kept_angles = s.kept_angles_, .wanted = s.wanted_},
      s.probe.observer != nullptr ? &s.probe : nullptr);
  s.n_wanted_ = s.wanted_.size();
  s.sequences = s.next_;
}

void Session::append(Token token, uint32_t sequence) {
  const Row row{token, length(sequence), sequence, true};
  append(std::span(&row, 1));
}

std::span<const float> Session::logits() {
  Impl& s = *impl_;
  const size_t vocab = s.config.vocab_size;
  s.host_logits_.resize(s.n_wanted_ * vocab);
  s.each_logits([&](size_t first, size_t n) {
    s.stages.back().ops->read(*s.logits_,
                              std::span(s.host_logits_).subspan(first * vocab, n * vocab));
  });
  return s.host_logits_;
}

std::span<const Candidate> Session::likeliest(size_t k) {
  Impl& s = *impl_;
  if (k > s.config.vocab_size) {
    throw Error("candidates", "wanted up to " + std::to_string(s.config.vocab_size) +
                                  " of the vocabulary, found " + std::to_string(k));
  }
  s.likeliest_.resize(s.n_wanted_ * k);
  if (k == 0) return {};
  s.each_logits([&](size_t first, size_t n) {
    s.stages.back().ops->likeliest(*s.logits_, k,
                                   std::span(s.likeliest_).subspan(first * k, n * k));
  });
  return s.likeliest_;
}

Token Session::sample(Sampler& sampler) {
  Impl& s = *impl_;
  const size_t vocab = s.config.vocab_size;
  if (s.n_wanted_ == 0) throw Error("sample", "wanted a row with logits before it");
  const size_t n = std::min(sampler.n_candidates(), vocab - s.unused.size());
  if (n == 0) {
    logits();
    const std::span<float> last = std::span(s.host_logits_).last(vocab);
    if (s.unused.empty()) return sampler.sample(last);
    s.usable_logits_.assign(last.begin(), last.end());
    for (const Token token : s.unused) {
      s.usable_logits_[static_cast<size_t>(token)] = -std::numeric_limits<float>::infinity();
    }
    return sampler.sample(s.usable_logits_);
  }
  // An unused token is hardly ever among the likeliest. Where one is, a look at more of them is all
  // that it costs.
  for (size_t k = n;; k = std::min(2 * k, vocab)) {
    s.usable_.clear();
    for (const Candidate& candidate : likeliest(k).last(k)) {
      const bool is_usable = !std::ranges::binary_search(s.unused, candidate.token);
      if (is_usable && s.usable_.size() < n) s.usable_.push_back(candidate);
    }
    if (s.usable_.size() == n) return sampler.sample(s.usable_);
  }
}

std::span<const float> Session::decode(std::span<const Row> rows) {
  append(rows);
  return logits();
}

std::span<const float> Session::decode(Token token, uint32_t sequence) {
  append(token, sequence);
  return logits();
}

void Session::prefill(std::span<const Token> tokens, uint32_t sequence,
                      const std::function<bool(size_t)>& progress) {
  if (tokens.empty()) throw Error("prompt", "is empty, wanted at least one token");
  if (static_cast<int64_t>(tokens.size()) > room(sequence)) {
    throw ContextFull("the prompt has " + std::to_string(tokens.size()) +
                      " tokens, the context of " + std::to_string(context()) + " has room for " +
                      std::to_string(room(sequence)));
  }
  std::vector<Row> rows;
  for (size_t done = 0; done < tokens.size();) {
    const size_t n = std::min(max_batch(), tokens.size() - done);
    rows.clear();
    for (const Token token : tokens.subspan(done, n)) {
      rows.push_back({token, length(sequence) + static_cast<int64_t>(rows.size()), sequence});
    }
    // Chunk ends want logits only if the caller may stop there.
    rows.back().wants_logits = progress || done + n == tokens.size();
    append(rows);
    done += n;
    if (progress && !progress(done)) break;
  }
}

void Session::wait() {
  impl_->stages.back().ops->wait_for_all();
}

void Session::observe(Observer* observer) {
  impl_->probe.observer = observer;
}

}  // namespace vga
