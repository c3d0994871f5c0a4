#include <cassert>
#include <cmath>

#include "cpu/cpu_backend.h"
#include "forward.h"
#include "model.h"
#include "vga.h"

namespace vga {
namespace {

size_t context_of(const Config& config, const SessionOptions& options) {
  return options.context == 0 ? config.context_length : options.context;
}

CacheShape cache_shape(const Config& config, const SessionOptions& options) {
  const size_t spans = (context_of(config, options) - 1) / cache_span + 1;
  return {.n_layers = config.n_layers,
          .n_lanes = options.n_sequences,
          .n_kept = 0,
          .n_ring = spans * cache_span,
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
  in_range("sequences", o.n_sequences, 1, 4096);
  in_range("threads", o.n_threads, 0, 1024);
  in_range("batch", o.max_batch, 1, 1 << 16);
  if (o.cache_type != DType::f16 && o.cache_type != DType::f32 && o.cache_type != DType::q8_0) {
    throw Error("cache type", "wanted f16, f32 or q8_0, found " + std::string(name(o.cache_type)));
  }
  if (config.head_dim % block_elements(o.cache_type) != 0) {
    throw Error("cache type", "q8_0 wants heads of a multiple of 32 elements, this model's have " +
                                  std::to_string(config.head_dim));
  }
}

/// Radians per position of each rotated pair: theta^(-2i / rope_dim) / (scale * factor i).
std::vector<double> rope_frequencies(const Config& c, const Weights& weights) {
  const auto* factors = reinterpret_cast<const float*>(weights.rope_factors.data);
  std::vector<double> frequencies(c.rope_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(c.rope_dim);
    frequencies[i] = std::pow(c.rope_theta, exponent) / c.rope_scale;
    if (factors != nullptr) frequencies[i] /= double{factors[i]};
  }
  return frequencies;
}

}  // namespace

uint64_t cache_bytes(const Config& config, const SessionOptions& options) {
  return cache_shape(config, options).bytes();
}

struct Session::Impl {
  Impl(const Model& model, const SessionOptions& session_options)
      : config(model.impl_->config),
        weights(model.impl_->weights),
        options(session_options),
        ops(cpu::new_backend(options.n_threads)),
        cache(ops->new_cache(cache_shape(config, options))),
        activations(config, *ops, options.max_batch, false),
        context(context_of(config, options)),
        frequencies(rope_frequencies(config, weights)),
        lengths(options.n_sequences) {}

  void plan(std::span<const Row> rows);

  const Config& config;
  const Weights& weights;
  SessionOptions options;
  std::unique_ptr<Backend> ops;
  std::unique_ptr<Cache> cache;
  Activations activations;
  size_t context;                   // tokens a sequence can hold
  std::vector<double> frequencies;  // (rope_dim / 2)
  std::vector<int64_t> lengths;     // (n_sequences) tokens held

  // The batch in progress.
  std::vector<BatchRow> rows_;      // (rows)
  std::vector<float> angles_;       // (rows, rope_dim / 2, 2)
  std::vector<uint32_t> wanted_;    // (n_wanted)
  std::vector<int64_t> next_;       // (n_sequences) lengths once the batch is done
  std::unique_ptr<Buffer> logits_;  // (n_wanted, vocab_size), grown as callers want more rows
  std::vector<float> host_logits_;  // the same, where the caller can read it
};

/// Checks the rows and works out angles and what each row sees.
void Session::Impl::plan(std::span<const Row> rows) {
  if (rows.empty() || rows.size() > options.max_batch) {
    throw Error("batch", "wanted 1 to " + std::to_string(options.max_batch) + " rows, found " +
                             std::to_string(rows.size()));
  }
  rows_.clear();
  angles_.clear();
  wanted_.clear();
  next_ = lengths;
  for (const Row& row : rows) {
    if (row.token < 0 || static_cast<size_t>(row.token) >= config.vocab_size) {
      throw Error("token", "wanted 0 to " + std::to_string(config.vocab_size - 1) + ", found " +
                               std::to_string(row.token));
    }
    if (row.sequence >= lengths.size()) {
      throw Error("sequence", "wanted 0 to " + std::to_string(lengths.size() - 1) + ", found " +
                                  std::to_string(row.sequence));
    }
    int64_t& next = next_[row.sequence];
    if (row.position != next) {
      throw Error("position", "wanted " + std::to_string(next) + ", the end of sequence " +
                                  std::to_string(row.sequence) + ", found " +
                                  std::to_string(row.position));
    }
    if (next >= static_cast<int64_t>(context)) {
      throw ContextFull("the context of " + std::to_string(context) + " tokens is full");
    }
    ++next;
    if (row.wants_logits) wanted_.push_back(static_cast<uint32_t>(rows_.size()));
    rows_.push_back({row.token, row.sequence, row.position, 0});
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(row.position) * frequency;
      angles_.push_back(static_cast<float>(std::cos(angle)));
      angles_.push_back(static_cast<float>(std::sin(angle)));
    }
  }
}

Session::Session(const Model& model, const SessionOptions& options)
    : impl_((validate(options, model.config()), std::make_unique<Impl>(model, options))) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

size_t Session::context() const {
  return impl_->context;
}
size_t Session::max_batch() const {
  return impl_->options.max_batch;
}
std::string Session::description() const {
  return impl_->ops->description();
}
uint64_t Session::cache_bytes() const {
  return impl_->cache->shape().bytes();
}

int64_t Session::length(uint32_t sequence) const {
  return impl_->lengths.at(sequence);
}

void Session::truncate(int64_t length, uint32_t sequence) {
  int64_t& held = impl_->lengths.at(sequence);
  if (length < 0 || length > held) {
    throw Error("length",
                "wanted 0 to " + std::to_string(held) + ", found " + std::to_string(length));
  }
  held = length;  // what lies behind the end is simply written again
}

std::span<const float> Session::decode(std::span<const Row> rows) {
  Impl& s = *impl_;
  s.plan(rows);
  const size_t n_wanted = s.wanted_.size();
  if (s.logits_ == nullptr || s.logits_->rows() < n_wanted) {
    s.logits_ = s.ops->new_buffer(n_wanted, s.config.vocab_size);
  }
  forward(s.config, s.weights, *s.ops,
          {.rows = s.rows_, .angles = s.angles_, .kept_angles = {}, .wanted = s.wanted_}, *s.cache,
          s.activations, *s.logits_);
  s.host_logits_.resize(n_wanted * s.config.vocab_size);
  if (n_wanted > 0) s.ops->read(*s.logits_, s.host_logits_);
  s.lengths = s.next_;
  return s.host_logits_;
}

std::span<const float> Session::decode(Token token, uint32_t sequence) {
  const Row row{token, length(sequence), sequence, true};
  return decode(std::span(&row, 1));
}

std::span<const float> Session::prefill(std::span<const Token> tokens, uint32_t sequence,
                                        const std::function<bool(size_t)>& progress) {
  if (tokens.empty()) throw Error("prompt", "is empty, wanted at least one token");
  const auto room = static_cast<int64_t>(context()) - length(sequence);
  if (static_cast<int64_t>(tokens.size()) > room) {
    throw ContextFull("the prompt has " + std::to_string(tokens.size()) +
                      " tokens, the context of " + std::to_string(context()) + " has room for " +
                      std::to_string(room));
  }
  std::span<const float> logits;
  std::vector<Row> rows;
  for (size_t done = 0; done < tokens.size();) {
    const size_t n = std::min(max_batch(), tokens.size() - done);
    rows.clear();
    for (const Token token : tokens.subspan(done, n)) {
      rows.push_back({token, length(sequence) + static_cast<int64_t>(rows.size()), sequence});
    }
    // Chunk ends want logits only if the caller may stop there.
    rows.back().wants_logits = progress || done + n == tokens.size();
    logits = decode(rows);
    done += n;
    if (progress && !progress(done)) break;
  }
  return logits;
}

}  // namespace vga
