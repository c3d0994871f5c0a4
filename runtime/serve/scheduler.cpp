#include "vga/scheduler.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "base/prefix.h"

namespace vga {
namespace {

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

/// Fewer tokens in common than that are not worth the rest of a sequence that somebody may go on
/// with, nor a copy or a wait.
constexpr size_t worth_keeping = 16;

/// Wakes the scheduler's thread. Requests may outlive the scheduler, so it is shared.
struct Bell {
  std::mutex mutex;
  std::condition_variable condition;
  bool rung = false;  // under the mutex

  void ring() {
    const std::lock_guard lock(mutex);
    rung = true;
    condition.notify_all();
  }
};

/// A request on its way. All but the flag belongs to the scheduler's thread.
struct Request final : Scheduler::Job {
  Request(AnswerRequest&& asked, std::shared_ptr<Bell> of)
      : request(std::move(asked)), sampler(request.sampler), bell(std::move(of)) {}

  void cancel() override {
    cancelled = true;
    bell->ring();
  }
  void nudge() override { bell->ring(); }

  AnswerRequest request;
  Sampler sampler;
  std::shared_ptr<Bell> bell;
  std::atomic<bool> cancelled = false;

  AnswerReport report;
  size_t read = 0;            // tokens of the prompt that the sequence has
  std::optional<Token> next;  // what it goes on with, once the prompt is read
  Clock::time_point queued = Clock::now();
  Clock::time_point begun;
  Clock::time_point first_token;
};

using RequestPtr = std::shared_ptr<Request>;

/// A sequence of the session and what it holds.
struct Slot {
  std::vector<Token> tokens;  // of the sequence
  RequestPtr request;         // null: free
  Snapshot snapshot;          // shortly before the end of the last prompt, where it is of use
  uint64_t last_used = 0;     // while it is busy, since when
  bool is_held_up = false;    // its receiver takes nothing now

  bool is_reading() const { return request && request->read < request->request.prompt.size(); }
};

/// A batch takes a row of every sequence, and one of a prompt.
SessionOptions with_room_for_all(SessionOptions options) {
  options.max_batch = std::max(options.max_batch, options.n_sequences + 1);
  return options;
}

/// log of the sum of exp() of a row of logits.
float log_sum(std::span<const float> logits) {
  const float most = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - most);
  return most + static_cast<float>(std::log(sum));
}

}  // namespace

struct Scheduler::Impl {
  Impl(const Model& of, const SchedulerOptions& with)
      : model(of),
        options(with),
        session(of, with_room_for_all(with.session)),
        slots(with.session.n_sequences) {
    thread = std::thread([this] { run(); });
  }

  void run();
  void admit();
  Slot& choose_slot(const std::vector<Token>& prompt);
  void begin(Slot& slot, const RequestPtr& request);
  void finish(Slot& slot, AnswerEnd end, const std::string& error = {});
  void drop_cancelled();
  void ask_receiver(Slot& slot);
  std::vector<Slot*> share();
  void catch_up(Slot& slot);
  size_t handed_over(const std::vector<Token>& by, const Request& to) const;
  size_t read_for(const Slot& older, const Slot& younger) const;
  bool waits(const Slot& slot, std::span<Slot* const> older) const;
  size_t end_of_rows(const Slot& slot) const;
  std::vector<Row> next_rows();
  void step(const std::vector<Row>& rows);
  void take(Slot& slot, AnswerToken token);
  void report_state(bool has_rows);
  void cancel_all();

  /// Tokens of a prompt after which a sequence that cannot go back takes a snapshot; 0 is never.
  size_t snapshot_at(const std::vector<Token>& prompt) const {
    return session.rewinds() || prompt.size() <= asking_tokens ? 0 : prompt.size() - asking_tokens;
  }
  uint32_t sequence_of(const Slot& slot) const {
    return static_cast<uint32_t>(&slot - slots.data());
  }
  const Model& model;
  SchedulerOptions options;
  Session session;
  std::vector<Slot> slots;  // (n_sequences)
  uint64_t uses = 0;

  std::atomic<uint64_t> steps = 0;
  std::shared_ptr<Bell> bell = std::make_shared<Bell>();
  std::mutex& mutex = bell->mutex;
  // Under the mutex:
  std::deque<RequestPtr> waiting;
  size_t n_running = 0;  // slots that have a request, or are about to
  bool working = false;  // there are rows to compute
  bool draining = false;
  bool stopping = false;
  State last_state;
  Clock::time_point last_step = Clock::now();

  std::thread thread;
};

/// Of the free slots, of which there is one: that with the longest beginning of the prompt, if that
/// is worth it and most of what is there; else the one used least recently. Where a beginning can
/// be copied to that one, the first is taken only if it loses less by it, or next to nothing.
Slot& Scheduler::Impl::choose_slot(const std::vector<Token>& prompt) {
  const auto in_common = [&](const Slot* slot) { return common_prefix(slot->tokens, prompt); };
  std::vector<Slot*> free;
  for (Slot& slot : slots) {
    if (!slot.request) free.push_back(&slot);
  }
  assert(!free.empty());
  Slot* oldest = *std::ranges::min_element(free, {}, &Slot::last_used);
  Slot* best = *std::ranges::max_element(free, {}, in_common);
  const size_t most = in_common(best);
  const size_t lost = best->tokens.size() - most;
  const bool loses_less =
      !session.rewinds() || lost < worth_keeping || lost <= oldest->tokens.size();
  const bool worth_it = most >= worth_keeping && (best == oldest || (lost <= most && loses_less));
  return worth_it ? *best : *oldest;
}

/// Keeps of a sequence what the prompt begins with. Where it cannot go back to that, it goes to its
/// snapshot or begins anew. The last token is read in any case: an answer needs its logits.
void Scheduler::Impl::begin(Slot& slot, const RequestPtr& request) {
  const std::vector<Token>& prompt = request->request.prompt;
  const uint32_t sequence = sequence_of(slot);
  size_t known = std::min(common_prefix(slot.tokens, prompt), prompt.size() - 1);
  known = static_cast<size_t>(
      session.go_back(static_cast<int64_t>(known), std::span(&slot.snapshot, 1), sequence));
  slot.tokens.resize(known);
  slot.request = request;
  slot.last_used = ++uses;
  request->begun = Clock::now();
  request->read = known;
  request->report.prompt_tokens = prompt.size();
  request->report.cached_tokens = known;
  request->report.queue_seconds = seconds_between(request->queued, request->begun);
  ask_receiver(slot);
}

void Scheduler::Impl::ask_receiver(Slot& slot) {
  const auto& can_take = slot.request->request.can_take;
  slot.is_held_up = can_take && !can_take();
}

/// How many tokens of a prompt a sequence can take from one with these tokens. The last one is read
/// in any case or, where sequences cannot go back, the one that a snapshot is taken behind.
size_t Scheduler::Impl::handed_over(const std::vector<Token>& by, const Request& to) const {
  const std::vector<Token>& prompt = to.request.prompt;
  const size_t last = session.rewinds() ? prompt.size() : std::max<size_t>(1, snapshot_at(prompt));
  return std::min(common_prefix(by, prompt), last - 1);
}

/// Up to where an older prompt reads for a younger one, too; 0 if that is done or not worth a wait.
size_t Scheduler::Impl::read_for(const Slot& older, const Slot& younger) const {
  const size_t shared = handed_over(older.request->request.prompt, *younger.request);
  const bool worth_it =
      shared > older.request->read && shared >= younger.request->read + worth_keeping;
  return worth_it ? shared : 0;
}

/// Copies the longest beginning of the prompt that another sequence has, if that saves enough.
void Scheduler::Impl::catch_up(Slot& slot) {
  Request& request = *slot.request;
  std::vector<std::pair<size_t, uint32_t>> sources;  // tokens, sequence
  for (const Slot& other : slots) {
    const size_t n = handed_over(other.tokens, request);
    if (&other != &slot && n >= request.read + worth_keeping) {
      sources.emplace_back(n, sequence_of(other));
    }
  }
  std::ranges::sort(sources, std::ranges::greater());
  for (const auto& [n, from] : sources) {
    try {
      session.copy(from, sequence_of(slot), static_cast<int64_t>(n));
    } catch (const Error&) {
      continue;  // a window has slid over it, or delta nets are ahead of it
    }
    const std::vector<Token>& prompt = request.request.prompt;
    slot.tokens.assign(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(n));
    request.report.cached_tokens += n - request.read;
    request.read = n;
    return;
  }
}

void Scheduler::Impl::finish(Slot& slot, AnswerEnd end, const std::string& error) {
  const RequestPtr request = std::move(slot.request);
  slot.request.reset();
  slot.last_used = ++uses;
  AnswerReport& report = request->report;
  report.end = end;
  report.error = error;
  const auto now = Clock::now();
  if (report.tokens > 0) {
    report.prefill_seconds = seconds_between(request->begun, request->first_token);
    report.decode_seconds = seconds_between(request->first_token, now);
  } else {
    report.prefill_seconds = seconds_between(request->begun, now);
  }
  if (session.slides()) {
    const int64_t unseen =
        session.length(sequence_of(slot)) + 1 - static_cast<int64_t>(session.context());
    report.evicted_tokens = static_cast<size_t>(std::max<int64_t>(0, unseen));
  }
  {
    const std::lock_guard lock(mutex);
    --n_running;  // before the answer's end is heard: the next request may be a reply to it
  }
  request->request.on_end(report);
}

void Scheduler::Impl::drop_cancelled() {
  for (Slot& slot : slots) {
    if (slot.request && slot.request->cancelled) finish(slot, AnswerEnd::cancelled);
  }
}

/// Gives free slots to those that wait, the oldest first; who is cancelled leaves.
void Scheduler::Impl::admit() {
  std::vector<RequestPtr> gone;
  {
    const std::lock_guard lock(mutex);
    std::erase_if(waiting, [&](const RequestPtr& request) {
      if (!request->cancelled && !draining && !stopping) return false;
      gone.push_back(request);
      return true;
    });
  }
  for (const RequestPtr& request : gone) {
    request->report.end = AnswerEnd::cancelled;
    request->report.prompt_tokens = request->request.prompt.size();
    request->report.queue_seconds = seconds_between(request->queued, Clock::now());
    request->request.on_end(request->report);
  }
  while (std::ranges::any_of(slots, [](const Slot& slot) { return slot.request == nullptr; })) {
    RequestPtr request;
    {
      const std::lock_guard lock(mutex);
      if (waiting.empty()) return;
      request = waiting.front();
      waiting.pop_front();
      ++n_running;
    }
    share();  // before this one takes the place of what is there
    begin(choose_slot(request->request.prompt), request);
  }
}

/// Where a prompt's rows end in a step: at its end or, where sequences cannot go back, already
/// where it takes a snapshot or where a younger prompt goes another way.
size_t Scheduler::Impl::end_of_rows(const Slot& slot) const {
  const std::vector<Token>& prompt = slot.request->request.prompt;
  size_t end = prompt.size();
  if (session.rewinds()) return end;
  if (slot.request->read < snapshot_at(prompt)) end = snapshot_at(prompt);
  for (const Slot& other : slots) {
    if (!other.is_reading() || other.is_held_up || other.last_used <= slot.last_used) continue;
    if (const size_t shared = read_for(slot, other)) end = std::min(end, shared);
  }
  return end;
}

/// A prompt waits while an older one reads what both begin with. It loses nothing by that, as it
/// would get what rows that one leaves.
bool Scheduler::Impl::waits(const Slot& slot, std::span<Slot* const> older) const {
  return std::ranges::any_of(older, [&](const Slot* other) { return read_for(*other, slot) > 0; });
}

/// Each prompt that waits for none copies what others have of it. These are returned, the oldest
/// first.
std::vector<Slot*> Scheduler::Impl::share() {
  std::vector<Slot*> readers;
  for (Slot& slot : slots) {
    if (slot.is_reading() && !slot.is_held_up) readers.push_back(&slot);
  }
  std::ranges::sort(readers, {}, &Slot::last_used);
  size_t n = 0;
  for (Slot* slot : readers) {
    if (waits(*slot, std::span(readers).first(n))) continue;
    catch_up(*slot);
    readers[n++] = slot;
  }
  readers.resize(n);
  return readers;
}

/// One row for each sequence that decodes, then prompts as far as the budget goes, the oldest
/// first.
std::vector<Row> Scheduler::Impl::next_rows() {
  std::vector<Row> rows;
  for (const Slot& slot : slots) {
    if (!slot.request || slot.is_held_up || slot.is_reading()) continue;
    const uint32_t sequence = sequence_of(slot);
    rows.push_back({*slot.request->next, session.length(sequence), sequence, true});
  }
  size_t budget = session.max_batch();
  if (!rows.empty()) budget = std::min(budget, std::max(options.step_rows, rows.size() + 1));
  for (const Slot* slot : share()) {
    const Request& request = *slot->request;
    const uint32_t sequence = sequence_of(*slot);
    const std::vector<Token>& prompt = request.request.prompt;
    const size_t end = end_of_rows(*slot);
    const size_t n = std::min(budget - rows.size(), end - request.read);
    for (size_t at = request.read; at < request.read + n; ++at) {
      rows.push_back({prompt[at], static_cast<int64_t>(at), sequence, at + 1 == prompt.size()});
    }
  }
  return rows;
}

/// Computes rows, and chooses the next token of each sequence that wants one.
void Scheduler::Impl::step(const std::vector<Row>& rows) {
  std::vector<Sampler*> samplers;
  std::vector<Slot*> choosing;
  bool wants_probabilities = false;
  session.append(rows);
  for (const Row& row : rows) {
    Slot& slot = slots[row.sequence];
    slot.tokens.push_back(row.token);
    const std::vector<Token>& prompt = slot.request->request.prompt;
    if (slot.request->read < prompt.size() && ++slot.request->read == snapshot_at(prompt)) {
      slot.snapshot = session.snapshot(row.sequence);
    }
    if (!row.wants_logits) continue;
    samplers.push_back(&slot.request->sampler);
    choosing.push_back(&slot);
    wants_probabilities |= slot.request->request.wants_probabilities;
  }
  if (!choosing.empty()) {
    const std::vector<Token> tokens = session.sample(samplers);
    std::span<const float> logits;  // (n_wanted, vocab_size)
    if (wants_probabilities) logits = session.logits();
    const size_t vocab = model.config().vocab_size;
    for (size_t i = 0; i < choosing.size(); ++i) {
      AnswerToken token{tokens[i]};
      const AnswerRequest& request = choosing[i]->request->request;
      if (request.wants_probabilities) {
        const auto row = logits.subspan(i * vocab, vocab);
        const float all = log_sum(row);
        token.log_probability = row[static_cast<size_t>(token.token)] - all;
        token.likeliest.resize(std::min(request.n_likeliest, vocab));
        if (!token.likeliest.empty()) find_likeliest(row, token.likeliest);
        for (Candidate& candidate : token.likeliest) candidate.logit -= all;
      }
      take(*choosing[i], std::move(token));
    }
  }
  if (options.on_step) options.on_step(rows.size());
}

/// Hands a token out and decides whether it was the last one.
void Scheduler::Impl::take(Slot& slot, AnswerToken token) {
  Request& request = *slot.request;
  if (request.report.tokens++ == 0) request.first_token = Clock::now();
  if (!request.request.ignore_end && model.tokenizer().is_end(token.token)) {
    finish(slot, AnswerEnd::stop);
    return;
  }
  request.sampler.accept(token.token);
  request.next = token.token;
  if (!request.request.on_token(token)) {
    finish(slot, AnswerEnd::stop);
  } else if (request.report.tokens >= request.request.max_tokens ||
             session.room(sequence_of(slot)) <= 1) {  // this token takes it
    finish(slot, AnswerEnd::length);
  }
}

void Scheduler::Impl::report_state(bool has_rows) {
  State state;
  for (const Slot& slot : slots) {
    State::Sequence sequence{slot.request != nullptr, session.length(sequence_of(slot))};
    if (slot.request) {
      ++state.running;
      sequence.prompt_left = slot.request->request.prompt.size() - slot.request->read;
      sequence.tokens = slot.request->report.tokens;
    }
    state.sequences.push_back(sequence);
  }
  const std::lock_guard lock(mutex);
  last_state = std::move(state);
  working = has_rows;
}

void Scheduler::Impl::cancel_all() {
  for (Slot& slot : slots) {
    if (slot.request) slot.request->cancelled = true;
  }
}

void Scheduler::Impl::run() {
  while (true) {
    drop_cancelled();
    for (Slot& slot : slots) {
      if (slot.request) ask_receiver(slot);
    }
    admit();
    const std::vector<Row> rows = next_rows();
    report_state(!rows.empty());
    if (rows.empty()) {
      std::unique_lock lock(mutex);
      bell->condition.wait(lock, [&] { return bell->rung || stopping; });
      bell->rung = false;
      last_step = Clock::now();  // what begins now has not waited
      if (!stopping) continue;
      lock.unlock();
      if (std::ranges::none_of(slots, [](const Slot& slot) { return slot.request != nullptr; })) {
        admit();  // tells those that wait
        return;
      }
      cancel_all();
      continue;
    }
    try {
      step(rows);
    } catch (const std::exception& error) {
      // Whose rows were to blame is not known; what they left in the session is of no use.
      for (Slot& slot : slots) {
        if (!slot.request) continue;
        session.truncate(0, sequence_of(slot));
        slot.tokens.clear();
        finish(slot, AnswerEnd::failed, error.what());
      }
    }
    ++steps;
    const std::lock_guard lock(mutex);
    last_step = Clock::now();
    if (stopping) cancel_all();
  }
}

Scheduler::Scheduler(const Model& model, const SchedulerOptions& options)
    : impl_(std::make_unique<Impl>(model, options)) {}

Scheduler::~Scheduler() {
  stop();
  impl_->thread.join();
}

void Scheduler::stop() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->draining = true;
    impl_->stopping = true;
  }
  impl_->bell->ring();
}

std::vector<std::shared_ptr<Scheduler::Job>> Scheduler::submit(
    std::vector<AnswerRequest> requests) {
  Impl& s = *impl_;
  const auto vocab = static_cast<Token>(s.model.config().vocab_size);
  std::vector<RequestPtr> jobs;
  for (AnswerRequest& request : requests) {
    if (request.prompt.empty()) throw Error("prompt", "is empty, wanted at least one token");
    const auto check = [&](const char* where, Token token) {
      if (token >= 0 && token < vocab) return;
      throw Error(where, "wanted tokens from 0 to " + std::to_string(vocab - 1) + ", found " +
                             std::to_string(token));
    };
    for (const Token token : request.prompt) check("prompt", token);
    for (const LogitBias& bias : request.sampler.logit_bias) check("logit-bias", bias.token);
    if (!slides() && request.prompt.size() >= context()) {
      throw ContextFull("the context has " + std::to_string(context()) + " tokens, the prompt " +
                        std::to_string(request.prompt.size()));
    }
    jobs.push_back(std::make_shared<Request>(std::move(request), s.bell));
  }
  {
    const std::lock_guard lock(s.mutex);
    const size_t free = s.slots.size() - s.n_running;
    if (s.draining || s.waiting.size() + jobs.size() > free + s.options.max_waiting) return {};
    s.waiting.insert(s.waiting.end(), jobs.begin(), jobs.end());
  }
  s.bell->ring();
  return {jobs.begin(), jobs.end()};
}

void Scheduler::drain() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->draining = true;
  }
  impl_->bell->ring();
}

Scheduler::State Scheduler::state() const {
  const std::lock_guard lock(impl_->mutex);
  State state = impl_->last_state;
  state.waiting = impl_->waiting.size();
  state.draining = impl_->draining;
  if (impl_->working) {
    state.idle_seconds = seconds_between(impl_->last_step, Clock::now());
  }
  return state;
}

uint64_t Scheduler::steps() const {
  return impl_->steps;
}

size_t Scheduler::context() const {
  return impl_->session.context();
}
bool Scheduler::slides() const {
  return impl_->session.slides();
}
size_t Scheduler::keep() const {
  return impl_->session.keep();
}
size_t Scheduler::n_sequences() const {
  return impl_->slots.size();
}
size_t Scheduler::max_waiting() const {
  return impl_->options.max_waiting;
}
std::string Scheduler::description() const {
  return impl_->session.description();
}
uint64_t Scheduler::cache_bytes() const {
  const Session& session = impl_->session;
  return session.cache_bytes() + impl_->slots.size() * session.snapshot_bytes();
}

}  // namespace vga
