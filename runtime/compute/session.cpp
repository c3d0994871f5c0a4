#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "compute/cache_plan.h"
#include "compute/forward.h"
#include "compute/rope.h"
#include "compute/session_options.h"
#include "model/model.h"
#include "vga/vga.h"

namespace vga {
namespace {

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

/// The divisors of a session's angles: by_context has two sets.
std::span<const float> rope_factors(const Config& config, const Weights& weights,
                                    const KvWindow& session) {
  const bool is_long = config.rope_factors == RopeFactors::by_context &&
                       session.size > static_cast<int64_t>(config.original_context);
  const Tensor& factors = is_long ? weights.rope_factors_long : weights.rope_factors;
  return {reinterpret_cast<const float*>(factors.data), factors.cols};
}

}  // namespace

struct Snapshot::Impl {
  const void* session;
  uint32_t sequence;
  int64_t length;
  int64_t forgotten;
  bool is_valid = true;
  std::vector<std::unique_ptr<State>> states;  // (stages), of one slot; null where there are none

  /// What it holds is gone at once, for it may be on a device that others want.
  void end() {
    is_valid = false;
    states.clear();
  }
};

Snapshot::operator bool() const {
  return impl_ != nullptr && impl_->is_valid;
}
int64_t Snapshot::length() const {
  return impl_ == nullptr ? 0 : impl_->length;
}

struct Session::Impl {
  Impl(const Model& model, const SessionOptions& session_options)
      : config(model.impl_->config),
        weights(model.impl_->weights),
        unused(model.impl_->base->tokenizer ? model.impl_->base->tokenizer->unused()
                                            : std::span<const Token>()),
        options(session_options),
        plan(config, options),
        ropes(make_ropes(config, rope_factors(config, weights, plan.session))),
        sequences(options.n_sequences) {
    for (const auto& [layers, device] : model.impl_->base->parts) {
      if (device->on_host()) check_room(config, options, layers.first);
      stages.emplace_back(config, device->new_backend(options.n_threads), layers, plan,
                          options.max_batch);
    }
  }

  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  /// Snapshots may live longer, their states are a backend's and may not.
  ~Impl() {
    for (const auto& weak : snapshots) {
      if (const auto snapshot = weak.lock()) snapshot->end();
    }
  }

  struct Sequence {
    int64_t length = 0;     // position of the next token
    int64_t forgotten = 0;  // positions before it are out of sight unless they are kept
    int64_t written = 0;    // one more than the highest position the cache has seen
    bool is_torn = false;   // a batch has failed, and some of its states may be ahead of its length
  };

  bool has_states() const { return plan.state.n_layers > 0; }
  void go_back(Sequence& held, int64_t length, int64_t forgotten);
  Sequence cut(const Sequence& held, int64_t length);
  static void check_whole(const Sequence& held);
  void end_snapshots(uint32_t sequence, int64_t length);

  bool slides() const { return options.window > 0; }
  /// Tokens that every layer keeps for good.
  int64_t kept_everywhere() const {
    return std::ranges::min(plan.windows, {}, &KvWindow::keep).keep;
  }
  /// What a sequence can be cut to, of lengths that are more than that: as far as all rings hold.
  int64_t shortest_length(const Sequence& held) const {
    int64_t least = 0;
    for (size_t kind = 0; kind < plan.windows.size(); ++kind) {
      const KvWindow& window = plan.windows[kind];
      const auto n_ring = static_cast<int64_t>(plan.shapes[kind].n_ring);
      if (held.written <= n_ring) continue;
      least = std::max(least, held.written - n_ring + window.size - window.keep - 1);
    }
    return least;
  }
  Sequence& sequence(uint32_t index);
  void take(std::span<const Row> rows);
  template <class Take>
  void each_logits(Take&& take);
  Token sample_row(Session& session, size_t row, Sampler& sampler);

  const Config& config;
  const Weights& weights;
  std::span<const Token> unused;  // tokens that are never chosen
  SessionOptions options;
  CachePlan plan;
  std::vector<Rope> ropes;                               // of each table
  std::vector<Stage> stages;                             // one after the other
  std::vector<Sequence> sequences;                       // (n_sequences)
  std::vector<std::weak_ptr<Snapshot::Impl>> snapshots;  // those that may still be restored
  Probe probe;

  // The batch in progress.
  std::vector<BatchRow> rows_;                                   // (rows)
  std::vector<int64_t> first_visible_;                           // (kinds, rows)
  std::array<std::vector<float>, max_rope_tables> angles_;       // (rows, rope_dim / 2, 2)
  std::array<std::vector<float>, max_rope_tables> kept_angles_;  // for queries that meet kept keys
  std::vector<uint32_t> wanted_;                                 // (n_wanted)
  std::vector<Sequence> next_;        // (n_sequences) once the batch is done
  size_t n_wanted_ = 0;               // rows whose logits can be had; none after an Error
  std::unique_ptr<Buffer> logits_;    // (up to logits_rows, vocab_size), grown when asked for more
  std::optional<size_t> in_logits_;   // the wanted row whose logits come first in there
  std::vector<float> host_logits_;    // (n_wanted, vocab_size)
  bool has_host_logits_ = false;      // of this batch
  std::vector<Candidate> likeliest_;  // (n_wanted, n_likeliest)
  size_t n_likeliest_ = 0;            // of this batch; 0: not asked for yet
  std::vector<Candidate> usable_;     // of a row, those that are not unused
  std::vector<float> usable_logits_;  // (vocab_size) of a row, unused ones out of reach
};

Session::Impl::Sequence& Session::Impl::sequence(uint32_t index) {
  if (index >= sequences.size()) {
    throw Error("sequence", "wanted 0 to " + std::to_string(sequences.size() - 1) + ", found " +
                                std::to_string(index));
  }
  return sequences[index];
}

/// An Error if its states are of no use. At its beginning there is nothing in them yet.
void Session::Impl::check_whole(const Sequence& held) {
  if (!held.is_torn || held.length == 0) return;
  throw CannotRewind(
      "a batch has failed, and this model's delta nets cannot go back from there to "
      "position " +
      std::to_string(held.length) + "; wanted 0, or a snapshot");
}

/// Checks the rows of a batch and works out angles and what each row sees.
void Session::Impl::take(std::span<const Row> rows) {
  if (rows.empty() || rows.size() > options.max_batch) {
    throw Error("batch", "wanted 1 to " + std::to_string(options.max_batch) + " rows, found " +
                             std::to_string(rows.size()));
  }
  rows_.clear();
  first_visible_.resize(plan.windows.size() * rows.size());
  for (auto* tables : {&angles_, &kept_angles_}) {
    for (std::vector<float>& angles : *tables) angles.clear();
  }
  wanted_.clear();
  next_ = sequences;
  for (const Row& row : rows) {
    if (row.token < 0 || static_cast<size_t>(row.token) >= config.vocab_size) {
      throw Error("token", "wanted 0 to " + std::to_string(config.vocab_size - 1) + ", found " +
                               std::to_string(row.token));
    }
    sequence(row.sequence);
    Sequence& next = next_[row.sequence];
    check_whole(next);
    next.is_torn = false;
    if (row.position != next.length) {
      throw Error("position", "wanted " + std::to_string(next.length) + ", the end of sequence " +
                                  std::to_string(row.sequence) + ", found " +
                                  std::to_string(row.position));
    }
    if (!slides() && next.length >= plan.session.size) {
      throw ContextFull("the context of " + std::to_string(plan.session.size) + " tokens is full");
    }
    for (size_t kind = 0; kind < plan.windows.size(); ++kind) {
      first_visible_[kind * rows.size() + rows_.size()] =
          plan.windows[kind].view(row.position, next.forgotten).first;
    }
    const int64_t kept_index = plan.session.view(row.position, next.forgotten).index;
    for (size_t table = 0; table < ropes.size(); ++table) {
      ropes[table].append(row.position, angles_[table]);
      if (plan.session.keep > 0) ropes[table].append(kept_index, kept_angles_[table]);
    }
    ++next.length;
    next.written = std::max(next.written, next.length);
    if (row.wants_logits) wanted_.push_back(static_cast<uint32_t>(rows_.size()));
    rows_.push_back({row.token, row.sequence, row.position});
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
      project_logits(config, weights, stages.back(), n_wanted_, first, n, *logits_);
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
  return static_cast<size_t>(impl_->plan.session.size);
}
bool Session::slides() const {
  return impl_->slides();
}
size_t Session::keep() const {
  return static_cast<size_t>(impl_->plan.session.keep);
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
      text += " (" + std::to_string(stage.layers.size()) + " layers)";
    }
  }
  return text;
}
uint64_t Session::cache_bytes() const {
  return plan_bytes(impl_->plan, impl_->config.n_layers());
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
  return impl_->plan.session.size - length(sequence);
}

/// Cuts a sequence. What lies behind its end is simply written again.
void Session::Impl::go_back(Sequence& held, int64_t length, int64_t forgotten) {
  for (size_t kind = 0; kind < plan.windows.size(); ++kind) {
    const KvWindow& window = plan.windows[kind];
    const auto n_ring = static_cast<int64_t>(plan.shapes[kind].n_ring);
    if (window.holds(length, forgotten, n_ring, held.written)) continue;
    throw Error("length", "a window has slid over what a token at position " +
                              std::to_string(length) + " would see; wanted 0 to " +
                              std::to_string(kept_everywhere()) + ", or at least " +
                              std::to_string(shortest_length(held)));
  }
  held.length = length;
  held.forgotten = forgotten;
  if (length <= kept_everywhere()) held.written = length;  // all of the rings before it is seen
}

/// Snapshots behind `length` are no more: other tokens will stand there.
void Session::Impl::end_snapshots(uint32_t sequence, int64_t length) {
  std::erase_if(snapshots, [&](const std::weak_ptr<Snapshot::Impl>& weak) {
    const auto snapshot = weak.lock();
    if (snapshot == nullptr) return true;
    if (snapshot->sequence != sequence || snapshot->length <= length) return false;
    snapshot->end();
    return true;
  });
}

/// A sequence as it is up to `length`, where it can go back to that.
Session::Impl::Sequence Session::Impl::cut(const Sequence& held, int64_t length) {
  if (length < 0 || length > held.length) {
    throw Error("length",
                "wanted 0 to " + std::to_string(held.length) + ", found " + std::to_string(length));
  }
  if (has_states() && length != 0 && length != held.length) {
    throw CannotRewind("this model's delta nets cannot go back from position " +
                       std::to_string(held.length) + " to " + std::to_string(length) +
                       "; wanted 0, all of it, or a snapshot");
  }
  if (length != 0) check_whole(held);
  Sequence left = held;
  go_back(left, length, std::min(held.forgotten, length));
  if (length == 0) left.is_torn = false;
  return left;
}

void Session::truncate(int64_t length, uint32_t sequence) {
  Impl& s = *impl_;
  Impl::Sequence& held = s.sequence(sequence);
  held = s.cut(held, length);
  s.end_snapshots(sequence, length);
}

void Session::copy(uint32_t from, uint32_t to, int64_t length) {
  Impl& s = *impl_;
  Impl::Sequence& target = s.sequence(to);
  const Impl::Sequence copied = s.cut(s.sequence(from), length);
  if (from == to) return truncate(length, to);
  target = {};
  s.end_snapshots(to, -1);
  for (const Stage& stage : s.stages) {
    for (const auto& cache : stage.caches) {
      if (cache != nullptr) stage.ops->copy_slot(*cache, from, to, length);
    }
    if (stage.state != nullptr) stage.ops->copy_state(*stage.state, from, *stage.state, to);
  }
  target = copied;
}

bool Session::rewinds() const {
  return !impl_->has_states();
}

Snapshot Session::snapshot(uint32_t sequence) {
  Impl& s = *impl_;
  const Impl::Sequence& held = s.sequence(sequence);
  Impl::check_whole(held);
  Snapshot snapshot;
  snapshot.impl_ = std::make_shared<Snapshot::Impl>(Snapshot::Impl{.session = impl_.get(),
                                                                   .sequence = sequence,
                                                                   .length = held.length,
                                                                   .forgotten = held.forgotten,
                                                                   .states = {}});
  for (const Stage& stage : s.stages) {
    auto& copy = snapshot.impl_->states.emplace_back();
    if (stage.state == nullptr) continue;
    StateShape shape = stage.state->shape();
    shape.n_slots = 1;
    copy = stage.ops->new_state(shape);
    stage.ops->copy_state(*stage.state, sequence, *copy, 0);
  }
  std::erase_if(s.snapshots, [](const auto& weak) { return weak.expired(); });
  s.snapshots.push_back(snapshot.impl_);
  return snapshot;
}

uint64_t Session::snapshot_bytes() const {
  StateShape shape = impl_->plan.state;
  shape.n_slots = 1;
  return shape.bytes();
}

void Session::restore(const Snapshot& snapshot, uint32_t sequence) {
  Impl& s = *impl_;
  Impl::Sequence& held = s.sequence(sequence);
  const Snapshot::Impl* from = snapshot.impl_.get();
  if (!snapshot || from->session != impl_.get() || from->sequence != sequence) {
    throw Error("snapshot", "wanted one of sequence " + std::to_string(sequence) +
                                " that has not gone back behind it");
  }
  s.go_back(held, from->length, from->forgotten);
  for (size_t i = 0; i < s.stages.size(); ++i) {
    Stage& stage = s.stages[i];
    if (stage.state != nullptr) {
      stage.ops->copy_state(*from->states[i], 0, *stage.state, sequence);
    }
  }
  held.is_torn = false;
  s.end_snapshots(sequence, from->length);
}

int64_t Session::go_back(int64_t length, std::span<const Snapshot> snapshots, uint32_t sequence) {
  try {
    truncate(length, sequence);
    return length;
  } catch (const Error&) {
    // Of those that will do the latest one.
  }
  std::vector<Snapshot> usable(snapshots.begin(), snapshots.end());
  std::erase_if(usable, [&](const Snapshot& s) { return !s || s.length() > length; });
  std::ranges::sort(usable, std::ranges::greater(), &Snapshot::length);
  for (const Snapshot& snapshot : usable) {
    try {
      restore(snapshot, sequence);
      return snapshot.length();
    } catch (const Error&) {
      // A window has slid too far.
    }
  }
  truncate(0, sequence);
  return 0;
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
  s.has_host_logits_ = false;
  s.n_likeliest_ = 0;
  s.take(rows);
  s.probe.n_rows = rows.size();
  s.probe.n_wanted = s.wanted_.size();
  Batch batch;
  batch.rows = s.rows_;
  batch.first_visible = s.first_visible_;
  batch.wanted = s.wanted_;
  for (size_t table = 0; table < max_rope_tables; ++table) {
    batch.angles[table] = s.angles_[table];
    batch.kept_angles[table] = s.kept_angles_[table];
  }
  try {
    forward(s.config, s.weights, s.stages, batch, s.probe.observer != nullptr ? &s.probe : nullptr);
  } catch (...) {
    for (const BatchRow& row : s.rows_) {
      s.sequences[row.slot].is_torn = s.has_states();
      s.sequences[row.slot].written = s.next_[row.slot].written;  // in some layers
    }
    throw;
  }
  s.n_wanted_ = s.wanted_.size();
  s.sequences = s.next_;
}

void Session::append(Token token, uint32_t sequence) {
  const Row row{token, length(sequence), sequence, true};
  append(std::span(&row, 1));
}

std::span<const float> Session::logits() {
  Impl& s = *impl_;
  if (s.has_host_logits_) return s.host_logits_;
  const size_t vocab = s.config.vocab_size;
  s.host_logits_.resize(s.n_wanted_ * vocab);
  s.each_logits([&](size_t first, size_t n) {
    const auto rows = std::span(s.host_logits_).subspan(first * vocab, n * vocab);
    s.stages.back().ops->read(*s.logits_, rows);
    for (size_t r = 0; r < n; ++r) {
      Candidate likeliest{};
      find_likeliest(rows.subspan(r * vocab, vocab), std::span(&likeliest, 1));
      check_finite(likeliest.logit);
    }
  });
  s.has_host_logits_ = true;
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
  for (size_t row = 0; row < s.n_wanted_; ++row) check_finite(s.likeliest_[row * k].logit);
  s.n_likeliest_ = k;
  return s.likeliest_;
}

/// Brings what a sampler asks for from the device once for all rows.
Token Session::Impl::sample_row(Session& session, size_t row, Sampler& sampler) {
  const size_t vocab = config.vocab_size;
  const size_t n = std::min(sampler.n_candidates(), vocab - unused.size());
  if (n == 0) {
    const auto logits = session.logits().subspan(row * vocab, vocab);
    if (unused.empty()) return sampler.sample(logits);
    usable_logits_.assign(logits.begin(), logits.end());
    for (const Token token : unused) {
      usable_logits_[static_cast<size_t>(token)] = -std::numeric_limits<float>::infinity();
    }
    return sampler.sample(usable_logits_);
  }
  // An unused token is hardly ever among the likeliest. Where one is, a look at more of them is all
  // that it costs.
  for (size_t k = n;; k = std::min(2 * k, vocab)) {
    if (n_likeliest_ < k) session.likeliest(k);
    usable_.clear();
    for (const Candidate& candidate :
         std::span(likeliest_).subspan(row * n_likeliest_, n_likeliest_)) {
      const bool is_usable = !std::ranges::binary_search(unused, candidate.token);
      if (is_usable && usable_.size() < n) usable_.push_back(candidate);
    }
    if (usable_.size() == n) return sampler.sample(usable_);
  }
}

Token Session::sample(Sampler& sampler) {
  Impl& s = *impl_;
  if (s.n_wanted_ == 0) throw Error("sample", "wanted a row with logits before it");
  return s.sample_row(*this, s.n_wanted_ - 1, sampler);
}

std::vector<Token> Session::sample(std::span<Sampler* const> samplers) {
  Impl& s = *impl_;
  if (samplers.size() != s.n_wanted_) {
    throw Error("samplers", "wanted one for each of " + std::to_string(s.n_wanted_) +
                                " rows, found " + std::to_string(samplers.size()));
  }
  size_t n = 0;
  for (const Sampler* sampler : samplers) {
    n = std::max(n, std::min(sampler->n_candidates(), s.config.vocab_size));
  }
  if (n > 0) likeliest(n);  // at once what the most demanding needs
  std::vector<Token> tokens;
  for (size_t row = 0; row < samplers.size(); ++row) {
    tokens.push_back(s.sample_row(*this, row, *samplers[row]));
  }
  return tokens;
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
