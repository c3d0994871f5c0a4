#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vga/vga.h"

namespace vga {

/// A token of an answer, and how likely the model found it.
struct AnswerToken {
  Token token;
  /// log of the probability that the model gave it, and the likeliest ones with theirs; only where
  /// asked for. They are of the model's logits, before penalties and temperature.
  float log_probability = 0;
  std::vector<Candidate> likeliest = {};  // (n_likeliest), `logit` is the log of the probability
};

/// Why an answer ended.
enum class AnswerEnd {
  stop,       // the model's own end, or the receiver wanted no more
  length,     // max_tokens, or the context is full
  cancelled,  // by cancel(), or because the scheduler was stopped
  failed,     // see AnswerReport::error
};

struct AnswerReport {
  AnswerEnd end = AnswerEnd::stop;
  std::string error = {};
  size_t prompt_tokens = 0;
  size_t cached_tokens = 0;   // of them not read again: its sequence, or another one, had them
  size_t tokens = 0;          // generated, one that ends the text included
  size_t evicted_tokens = 0;  // with a window: of both, what the next token would not see
  double queue_seconds = 0;
  double prefill_seconds = 0;  // from there to the first token
  double decode_seconds = 0;   // from there to the end
};

/// What is to be generated.
struct AnswerRequest {
  std::vector<Token> prompt;  // not empty
  SamplerOptions sampler = {};
  size_t max_tokens = SIZE_MAX;
  bool ignore_end = false;  // go on behind a token that ends a text
  bool wants_probabilities = false;
  size_t n_likeliest = 0;  // with them
  /// These are called by the scheduler's thread and must not wait. on_token, false for "enough",
  /// hears of each token but the one that ends the text; on_end is the last call. While can_take,
  /// if there is one, says no, the sequence takes no part in steps; Job::nudge() has it asked
  /// again.
  std::function<bool()> can_take = {};
  std::function<bool(const AnswerToken&)> on_token;
  std::function<void(const AnswerReport&)> on_end;
};

struct SchedulerOptions {
  SessionOptions session = {};  // n_sequences answers are generated at once
  size_t max_waiting = 64;      // requests that may wait for a sequence
  /// Rows of a step while any sequence decodes: what a new prompt may add to the time between two
  /// tokens of the others. Where none does, a step has session.max_batch rows.
  size_t step_rows = 128;
  /// Heard after each step, in the scheduler's thread.
  std::function<void(size_t rows)> on_step = {};
};

/// Generates many answers at once: a thread of its own owns a Session and runs steps, each a batch
/// with one row for every sequence that decodes and, up to a budget, rows of prompts, the oldest
/// first. What an answer says depends on its request alone, whatever else runs.
///
/// A sequence keeps its tokens when an answer ends. The next request takes the free sequence with
/// which it has most tokens in common, and reads only what is new; one with little in common takes
/// the sequence that was used least recently.
///
/// What another sequence has read, one that is busy or one that a conversation may go on with, is
/// copied rather than read again. Of prompts that begin alike and are read at the same time the
/// oldest reads, the others wait for it and copy. With delta nets a copy is possible only where the
/// other sequence ends: what arrives together is shared, what was answered before is not.
///
/// All functions may be called from any thread.
class Scheduler {
 public:
  /// An Error as Session throws it. The model must live as long.
  Scheduler(const Model& model, const SchedulerOptions& options);
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;
  /// stop(), and waits for it.
  ~Scheduler();

  /// One request in it.
  class Job {
   public:
    virtual ~Job() = default;
    /// Ends it at the next step, wherever it is: waiting, reading its prompt or generating.
    virtual void cancel() = 0;
    /// Something changed that AnswerRequest::can_take looks at.
    virtual void nudge() = 0;
  };
  /// Queues requests, all of them or none; empty if there is no place for so many, or if it
  /// drains. An Error for sampler options or tokens out of range, ContextFull for a prompt that
  /// leaves no room for a token.
  std::vector<std::shared_ptr<Job>> submit(std::vector<AnswerRequest> requests);

  /// From now on takes no more requests and cancels those that wait; what runs goes on.
  void drain();
  /// Cancels what runs, too. Does not wait.
  void stop();

  struct State {
    size_t running = 0;
    size_t waiting = 0;
    double idle_seconds = 0;  // since the last step ended; 0 where there is nothing to do
    bool draining = false;
    struct Sequence {
      bool running = false;
      int64_t length = 0;      // tokens that it holds or has held
      size_t prompt_left = 0;  // tokens of the prompt still to be read
      size_t tokens = 0;       // of the answer so far
    };
    std::vector<Sequence> sequences = {};
  };
  State state() const;
  /// Steps computed so far.
  uint64_t steps() const;

  /// Tokens of a sequence or, with a window, that one token sees.
  size_t context() const;
  bool slides() const;
  size_t keep() const;
  size_t n_sequences() const;
  size_t max_waiting() const;
  /// As Session has it.
  std::string description() const;
  /// The session's, and what the snapshots of its sequences take.
  uint64_t cache_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vga
