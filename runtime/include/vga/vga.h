#pragma once

/// The public face of the runtime. Load a Model once, open Sessions on it, feed and choose tokens:
///
///   vga::Model model = vga::Model::load("stories.gguf");
///   vga::Session session(model);
///   vga::Sampler sampler({.temperature = 0.8f, .seed = 1});
///   session.prefill(model.tokenizer().encode_prompt("Once"));
///   for (int i = 0; i < 100; ++i) {
///     const vga::Token token = session.sample(sampler);
///     session.append(token);
///   }
///
/// Everything that can go wrong with files and arguments is reported as vga::Error.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vga/candidate.h"
#include "vga/config.h"
#include "vga/dtype.h"
#include "vga/error.h"
#include "vga/observer.h"
#include "vga/sampler.h"
#include "vga/token.h"
#include "vga/tokenizer.h"

namespace vga {

class TensorSource;

struct SessionOptions {
  size_t context = 0;      // tokens a sequence can hold, up to 2^28; 0 is what the model was
                           // trained for
  size_t window = 0;       // instead of a context: how far a token sees, up to 2^28; 0 is without
                           // a window
  size_t keep = 0;         // with a window: the first tokens that stay in sight, less than window
  size_t n_sequences = 1;  // independent sequences, each with `context` tokens; up to 4096
  size_t n_threads = 0;    // up to 1023; 0 is one per physical core
  size_t max_batch = 256;  // rows computed at once: bounds scratch memory, sets prefill chunks; 1
                           // to 65536
  DType cache_type = DType::f16;  // f16, f32 or q8_0
};

/// A file that changes a model: low-rank updates of its matrices (LoRA), and maybe a gate and
/// vectors of its own.
struct AdapterOptions {
  std::filesystem::path path;
  float scale = 1;  // of the updates, beside what the file says; a gate is there or not
};

struct ModelOptions {
  bool mmap = true;  // false reads the file into memory, safe against files that shrink
  /// The pre-tokenizer of byte-level BPE ("llama-bpe"), for a file that names none or another one
  /// than it was trained with; empty is what the file says.
  std::string pre = {};
  /// Applied together. None brings a gate, or one does.
  std::vector<AdapterOptions> adapters = {};
  /// Where to compute: "cpu"; "vulkan" or "vulkan:N", the first or the N-th device; a part of a
  /// device's name; or "auto", the fastest kind of GPU that has room for the model, else the CPU.
  /// Empty is what the environment variable VGA_DEVICE says, "cpu" if it says nothing.
  std::string device = {};
  /// The first so many layers go to the device, the rest stays on the CPU. When all do, so does
  /// the output matrix.
  size_t device_layers = std::numeric_limits<size_t>::max();
  /// What the device shall have room for besides the weights, and on how many threads to load.
  SessionOptions session = {};
  /// Hears of bytes copied to the device, and of all.
  std::function<void(uint64_t done, uint64_t all)> progress = {};
};

/// A loaded model: weights, tokenizer, configuration. Never changes after load(), so any number of
/// sessions and threads may share it. Must outlive its sessions.
class Model {
 public:
  /// An Error, which names the file and what is wrong in it, if it cannot be read, is no GGUF file,
  /// or holds no model that this runtime computes exactly; also if options.device is none that
  /// there is, or it or the CPU has no room.
  static Model load(const std::filesystem::path& path, const ModelOptions& options = {});
  /// The same base with these adapters and no others; it shares the base's weights, tokenizer and
  /// devices, so it takes what the adapters take. Either may go before the other. An Error, which
  /// names the adapter's file and what is wrong in it, if one cannot be read or belongs to another
  /// base.
  Model with_adapters(std::span<const AdapterOptions> adapters) const;
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  /// The numbers that define it, all in range.
  const Config& config() const;
  /// An Error if the file has none: such a model takes token ids alone.
  const Tokenizer& tokenizer() const;
  /// The path as given, for messages.
  const std::string& file_name() const;
  /// The chat template's Jinja text as the file has it; empty if it has none.
  std::string_view chat_template() const;
  /// Bytes of weights that one decoded token reads: all of them but the embedding table, of which
  /// it needs one row (all of it too when it doubles as the output matrix), and of experts those
  /// that it takes.
  uint64_t bytes_per_token() const;
  /// Bytes of all weights, those of adapters too.
  uint64_t weight_bytes() const;
  /// Numbers in the weights of the base; an embedding that doubles as the output matrix counts
  /// once.
  uint64_t parameters() const;
  /// "llama 135M Q8_0": architecture, parameters, and the type that most of them have; with
  /// adapters their names behind that: "llama 135M Q8_0 + stories".
  std::string description() const;
  /// Why "auto" took the CPU; empty otherwise.
  const std::string& why_cpu() const;

 private:
  friend class Session;
  friend Model load_model_from(std::unique_ptr<const TensorSource> source,
                               const ModelOptions& options);
  struct Impl;
  explicit Model(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

/// One row of a batch: the token at a position of a sequence.
struct Row {
  Token token;
  int64_t position;
  uint32_t sequence = 0;
  bool wants_logits = false;
};

/// Thrown when a sequence would grow past its context. Nothing was computed; the session is intact.
class ContextFull : public Error {
 public:
  using Error::Error;
};

/// Thrown where a sequence of a model with delta nets should go back to a position of which there
/// is no Snapshot. Nothing is changed.
class CannotRewind : public Error {
 public:
  using Error::Error;
};

/// A moment of a sequence that it can go back to: its length, and copies of what delta nets
/// remember at that length, where they compute. Keys and values are not copied: they stay where
/// they are until the sequence goes back behind the moment, which ends the snapshot. Copies of a
/// Snapshot are the same one.
class Snapshot {
 public:
  Snapshot() = default;  // of nothing

  /// False for one of nothing, and once its sequence went back behind it.
  explicit operator bool() const;
  int64_t length() const;

 private:
  friend class Session;
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// What a conversation changes: KV cache, scratch memory, threads. Sessions of one model are
/// independent of each other and may run in different threads; one session is used by one thread
/// at a time.
///
/// Results depend on the tokens alone: not on how they were cut into batches, not on the number of
/// threads, not on what other sequences a batch holds.
///
/// Without a window a sequence ends where its context does. With one it never ends: memory and time
/// per token stay what they are, and each token sees `window` tokens, the first `keep` of the
/// sequence and the last window - keep up to itself. What left the window is forgotten. Kept tokens
/// are seen as if the others followed them directly, at the positions StreamingLLM gives them
/// (arXiv 2309.17453); otherwise scores depend on distances alone, so nothing drifts, ever. Choose
/// the window shorter than the context that the model was trained for.
///
/// Layers that were trained with a window of their own have it in any session; where the session's
/// is smaller, that counts. A model that has learned a vector for each position takes no window.
/// Delta nets remember what left it in their own way: a window concerns attention alone.
class Session {
 public:
  /// An empty session. An Error naming the option that is out of range, does not go with another
  /// one or with this model; also, before anything is allocated, if it wants more memory than the
  /// process can have, which says how much. std::bad_alloc if the system refuses it nevertheless.
  explicit Session(const Model& model, const SessionOptions& options = {});
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  /// Tokens that a sequence can hold or, with a window, that one token sees.
  size_t context() const;
  /// Whether a window slides, and how many tokens it keeps for good.
  bool slides() const;
  size_t keep() const;
  /// Rows that it computes at once.
  size_t max_batch() const;
  /// Where and how it computes: "cpu avx2, 2 threads".
  std::string description() const;
  /// Bytes of the KV cache when full, and of the states of delta nets.
  uint64_t cache_bytes() const;
  /// Seconds so far in which a device was at work and was waited for in the end; 0 on the CPU. The
  /// rest of a token's time, recording and submitting work and reading back, the device is idle.
  double device_wait_seconds() const;

  /// Tokens that `sequence` holds or has held: the position its next token takes.
  int64_t length(uint32_t sequence = 0) const;
  /// Tokens that still fit. With a window there is always room.
  int64_t room(uint32_t sequence = 0) const;
  /// Takes back everything from position `length` on. A window, the session's or one of the model's
  /// layers, may have slid over what would come into sight again: max_batch() tokens can always be
  /// taken back, counted from the furthest one since length() was last 0 (or, if no layer has a
  /// window of its own, at most keep()), not from length(); all of them too; and beyond that an
  /// Error says what is left. Nothing is changed then. Delta nets cannot go back but to the
  /// beginning: elsewhere such a model throws CannotRewind, and restore() is the way.
  void truncate(int64_t length, uint32_t sequence = 0);
  /// Makes `to` the first `length` tokens of `from`, with what was forgotten of them; both go on
  /// independently. It goes where truncate() of `from` goes, and throws what that would: what a
  /// window has slid over cannot be copied, and of delta nets all of `from` or nothing. What `to`
  /// was is gone, and so are its snapshots.
  void copy(uint32_t from, uint32_t to, int64_t length);
  /// Whether truncate() goes anywhere; with delta nets it goes to the beginning alone.
  bool rewinds() const;
  /// The sequence as it is now, to restore() later. It takes snapshot_bytes() where the session
  /// computes; without delta nets none.
  Snapshot snapshot(uint32_t sequence = 0);
  uint64_t snapshot_bytes() const;
  /// Goes back to a snapshot of the same sequence of this session. An Error if there is none, or if
  /// the sequence went back behind it meanwhile, or, as with truncate(), if a window has slid over
  /// what would come into sight.
  void restore(const Snapshot& snapshot, uint32_t sequence = 0);
  /// Goes back to `length` where truncate() does, else to the latest of these snapshots before it
  /// that can be restored, else to the beginning. Returns the length that the sequence has then.
  int64_t go_back(int64_t length, std::span<const Snapshot> snapshots, uint32_t sequence = 0);
  /// With a window: everything before `position` but the kept tokens leaves the sight of the tokens
  /// to come at once, which is how a chat forgets whole turns. An Error without a window, or if
  /// `position` is not in the sequence.
  void forget(int64_t position, uint32_t sequence = 0);

  /// Runs up to max_batch() rows. Rows of one sequence stand in the order of their positions and
  /// continue it without a gap. Returns the logits of the rows that want them, in order:
  /// (n_wanted, vocab_size), valid until the next call.
  /// Throws ContextFull, NotFinite, or an Error for a token, position or sequence out of range.
  std::span<const float> decode(std::span<const Row> rows);
  /// Appends one token; its logits (vocab_size).
  std::span<const float> decode(Token token, uint32_t sequence = 0);

  /// decode() in two steps: append() leaves the logits where they are computed, so that no more of
  /// them than needed is brought from a device. It may return before a device is done.
  void append(std::span<const Row> rows);
  void append(Token token, uint32_t sequence = 0);
  /// Of the rows of the last append(), decode() or prefill() that want logits: these (n_wanted,
  /// vocab_size), and the k likeliest tokens in the order of find_likeliest(), (n_wanted, k). Valid
  /// until the next call; k is at most vocab_size. Both throw NotFinite rather than hand out NaN.
  std::span<const float> logits();
  std::span<const Candidate> likeliest(size_t k);
  /// Chooses the token that follows the last of those rows; never one of Tokenizer::unused().
  Token sample(Sampler& sampler);
  /// The same for each of them by a sampler of its own, (n_wanted). An Error unless there are as
  /// many samplers.
  std::vector<Token> sample(std::span<Sampler* const> samplers);

  /// append() of tokens, which must not be none, in chunks of max_batch(); the last one wants
  /// logits. `progress`, if given, is called after each chunk with the tokens done; when it returns
  /// false the rest is left out and it is the last token done that wants them.
  void prefill(std::span<const Token> tokens, uint32_t sequence = 0,
               const std::function<bool(size_t done)>& progress = {});
  /// Waits for a device to finish what it was given. Asking for logits waits by itself.
  void wait();

  /// From now on shows each batch to `observer`, which must live as long. Null ends that, and then
  /// nothing is copied.
  void observe(Observer* observer);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Bytes of KV cache, and of states of delta nets, that a session with these options needs on this
/// model; an Error if an option is out of range.
uint64_t cache_bytes(const Config& config, const SessionOptions& options);

/// Bytes that `n_layers` of a session take on a device at most, for keys, values, activations and,
/// with the last layer, logits.
uint64_t session_bytes(const Config& config, const SessionOptions& options, size_t n_layers);

}  // namespace vga
