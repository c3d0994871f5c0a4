/// vga-stream: does a model stream without its first tokens?

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <optional>

#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "common/attention_probe.h"
#include "common/layers.h"
#include "common/program.h"
#include "common/terminal.h"
#include "common/text_flags.h"
#include "stream/stream_policy.h"
#include "stream/stream_report.h"

namespace {

using Kind = vga::StreamPolicy::Kind;

struct Flags {
  vga::ModelFlags model;
  vga::SamplerFlags sampler;
  std::vector<std::string> files;
  size_t generate = 0;
  size_t tokens = 0;
  std::vector<size_t> keep = {0, 1, vga::reference_keep};
  size_t batch = 64;
  bool full = false;
  bool recompute = false;
  bool json = false;
  bool csv = false;
  bool check = false;
  std::string plot;
};

/// A ring is somewhat longer than its window; so many tokens later all of it was written.
constexpr size_t rings_are_full = 1024;

/// 4 GB of them.
constexpr int64_t max_text_tokens = 1'000'000'000;

/// Bytes of memory that this process has for itself. Mapped files are not among them: a token that
/// was never met before may read another page of the weights. The pages are counted here: the
/// kernel's RssAnon is a sum over CPUs that is late by up to some hundred kB.
uint64_t memory_bytes() {
  std::ifstream status("/proc/self/smaps_rollup");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("Anonymous:")) return 1024 * std::stoull(line.substr(10));
  }
  return 0;
}

/// The files as one text, its first token, and one more than are scored: the last is only
/// predicted. A text that is too short starts over. When generating, only the first token is there
/// yet.
std::vector<vga::Token> read_text(const vga::Model& model, const Flags& flags) {
  const vga::Tokenizer& tokenizer = model.tokenizer();
  if (flags.generate > 0) {
    std::vector<vga::Token> text = tokenizer.encode_prompt("");
    if (text.empty()) text.push_back(0);
    text.resize(flags.generate + 1);
    return text;
  }
  std::vector<vga::Token> text = tokenizer.encode_prompt("");
  const size_t begin = text.size();
  for (const std::string& file : flags.files) {
    const auto tokens = tokenizer.encode(vga::read_text_file(file));
    text.insert(text.end(), tokens.begin(), tokens.end());
  }
  if (text.size() == begin) throw vga::Error("text", "is empty");
  if (flags.tokens > 0) {
    const size_t length = text.size();
    text.resize(flags.tokens + 1);
    for (size_t i = length; i < text.size(); ++i) text[i] = text[i - (length - begin)];
  }
  return text;
}

std::vector<vga::StreamPolicy> make_policies(const vga::Model& model, const Flags& flags,
                                             size_t n_tokens) {
  vga::SessionOptions options = flags.model.session;
  const size_t window = options.window;
  options.max_batch = std::min(flags.batch, window);
  std::vector<size_t> keeps = flags.keep;
  keeps.insert(keeps.end(), {0, vga::reference_keep});
  std::ranges::sort(keeps);
  keeps.erase(std::unique(keeps.begin(), keeps.end()), keeps.end());

  std::vector<vga::StreamPolicy> policies;
  for (const size_t keep : keeps) {
    options.keep = keep;
    policies.emplace_back(model, Kind::window, options, window, n_tokens);
  }
  options.window = options.keep = 0;
  if (flags.full) {
    options.context = std::min(n_tokens, 4 * model.config().context_length);
    policies.emplace_back(model, Kind::full, options, window, n_tokens);
  }
  if (flags.recompute) {
    options.context = window;
    options.max_batch = std::min<size_t>(256, window);
    policies.emplace_back(model, Kind::recompute, options, window, n_tokens);
  }
  return policies;
}

/// Up to four pieces spread over the text, each from a beginning as the model knows it.
std::vector<vga::FirstTokenUse> probe(const vga::Model& model, std::span<const vga::Token> text,
                                      size_t n_threads) {
  const vga::Tokenizer& tokenizer = model.tokenizer();
  const size_t length = std::min({model.config().context_length, size_t{512}, text.size()});
  if (length < 2) return {};
  std::vector<std::vector<vga::Token>> pieces;
  for (size_t i = 0; i < std::min<size_t>(4, text.size() / length); ++i) {
    const auto from = text.subspan(i * (text.size() - length) / 4, length);
    pieces.emplace_back(from.begin(), from.end());
    if (tokenizer.adds_bos()) pieces.back()[0] = *tokenizer.bos();
  }
  return vga::probe_first_token(model, pieces, n_threads);
}

/// A table on the terminal that redraws itself, if stderr is one.
class LiveTable {
 public:
  ~LiveTable() { erase(); }

  void update(std::span<const vga::StreamPolicy> policies) {
    const auto now = std::chrono::steady_clock::now();
    if (!visible_ || now < next_draw_) return;
    next_draw_ = now + std::chrono::milliseconds(250);
    erase();
    const std::string table = vga::policy_table(policies);
    lines_ = static_cast<size_t>(std::ranges::count(table, '\n'));
    std::cerr << table << std::flush;
  }

 private:
  void erase() {
    if (lines_ > 0) std::cerr << "\x1b[" << lines_ << "A\x1b[J" << std::flush;
    lines_ = 0;
  }

  bool visible_ = vga::can_redraw(STDERR_FILENO);
  size_t lines_ = 0;
  std::chrono::steady_clock::time_point next_draw_{};
};

/// Reads all of `text` under every policy, chunk by chunk.
void read(const Flags& flags, std::span<vga::Token> text, std::vector<vga::StreamPolicy>& policies,
          vga::StreamRun& run) {
  const size_t window = run.window;
  vga::Sampler sampler(flags.sampler.resolve());
  sampler.accept(text[0]);
  LiveTable table;
  memory_bytes();  // what measuring itself takes is not to count as growth
  while (run.tokens < text.size() - 1 && !vga::interrupted()) {
    const size_t begin = run.tokens;
    // A chunk ends where a stretch of W tokens does, so that each has its own time.
    const size_t end = flags.generate > 0
                           ? begin + 1
                           : std::min({begin + std::min(flags.batch, window), text.size() - 1,
                                       (begin / window + 1) * window});
    std::span<const float> logits;  // of the window that keeps the most
    for (vga::StreamPolicy& policy : policies) {
      const auto found = policy.run(text, begin, end);
      if (policy.kind() == Kind::window) logits = found;
    }
    if (vga::interrupted()) break;  // a policy may not have read all of the chunk
    if (flags.generate > 0) {
      text[end] = sampler.sample(logits);
      sampler.accept(text[end]);
    }
    for (vga::StreamPolicy& policy : policies) policy.score(text, begin, end);
    run.tokens = end;
    if (run.memory_filled == 0 && begin >= 2 * window + rings_are_full) {
      run.memory_filled = memory_bytes();
    }
    table.update(policies);
  }
  run.memory_end = memory_bytes();
}

int stream(Flags flags) {
  if (flags.files.empty() == (flags.generate == 0)) {
    throw vga::Error("text", "give it with -f FILE, or let the model write one with --generate N");
  }
  const vga::Model model = flags.model.load();
  size_t& window = flags.model.session.window;
  if (window == 0) window = std::max<size_t>(1, model.config().context_length / 2);
  if (window <= vga::reference_keep) {
    throw vga::Error("--window", "wanted more than the " + std::to_string(vga::reference_keep) +
                                     " tokens that the verdict compares with, found " +
                                     std::to_string(window));
  }
  std::vector<vga::Token> text = read_text(model, flags);
  if (text.size() - 1 < 2 * window) {
    throw vga::Error("text", "wanted at least two windows, " + std::to_string(2 * window + 1) +
                                 " tokens, found " + std::to_string(text.size()));
  }
  std::vector<vga::StreamPolicy> policies = make_policies(model, flags, text.size() - 1);
  std::optional<vga::OutputFile> plot;  // before the text is read, which may take hours
  if (!flags.plot.empty()) {
    std::vector<std::string> inputs = flags.files;
    inputs.push_back(flags.model.file);
    vga::check_output(flags.plot, inputs);
    plot.emplace(flags.plot);
  }
  vga::StreamRun run{
      .model = model.config().model_name.empty() ? model.file_name() : model.config().model_name,
      .window = window,
      .trained_context = model.config().context_length,
      .layer_windows = vga::layer_windows(model.config()),
      .layer_mixers = vga::layer_mixers(model.config())};
  vga::catch_interrupts();
  read(flags, text, policies, run);
  if (run.tokens < 2 * window) {
    std::cerr << "interrupted before two windows were read\n";
    return vga::interrupted_status();
  }
  // Nobody who interrupts waits for more.
  if (!vga::interrupted())
    run.layers = probe(model, std::span(text).first(run.tokens), flags.model.session.n_threads);

  if (plot) {
    plot->write(vga::svg_plot(run, policies));
    plot->commit();
  }
  std::cout << (flags.json  ? vga::json_report(run, policies)
                : flags.csv ? vga::csv_report(policies)
                            : vga::text_report(run, policies));
  if (vga::interrupted()) {
    std::cerr << "interrupted: this is the state so far\n";
    return vga::interrupted_status();
  }
  using Verdict = vga::StreamVerdict::Kind;
  switch (vga::judge(policies, window).kind) {
    case Verdict::sink_free:
      return 0;
    case Verdict::nearly:
      return flags.check ? 2 : 0;
    case Verdict::needs_kept:
      return flags.check ? 3 : 0;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Reads a long text through a sliding window, with and without kept first tokens, and says\n"
      "whether the model can do without them.\n\n"
      "Each token sees the last W tokens, of which the first N of the text may be kept. A model\n"
      "with attention sinks breaks when its first token leaves the window; one that needs none\n"
      "predicts as well with 0 kept tokens as with 4. The verdict:\n"
      "  sink-free    ppl(0 kept) <= 1.02 ppl(4 kept), and no stretch of W tokens above 1.2 times\n"
      "  nearly       ppl(0 kept) <= 1.2 ppl(4 kept)\n"
      "  needs-kept   otherwise, with the smallest N tried that meets the first rule\n"
      "What left the window is forgotten: this measures endurance, not memory.\n\n"
      "  vga-stream -m stories.gguf -f book.txt --window 256\n"
      "  vga-stream -m model.gguf -f a.txt b.txt --window 1024 --keep 0,1,2,4,8 --recompute\n"
      "  vga-stream -m stories.gguf -f book.txt --tokens 1000000 --json --plot run.svg\n"
      "  vga-stream -m stories.gguf -f book.txt --window 256 --check && echo sink-free",
      "vga-stream");
  Flags flags;
  flags.model.add_to(app);
  app.remove_option(app.get_option("--context"));  // the window takes its place
  app.add_option("-f,--file", flags.files, "Texts to read, one after the other as one text")
      ->type_name("FILE...");
  app.add_option("--generate", flags.generate,
                 "Instead, let the model write N tokens and score those")
      ->check(CLI::Range(int64_t{1}, max_text_tokens))
      ->type_name("N");
  app.add_option("-w,--window", flags.model.session.window,
                 "Tokens that a token sees, itself and the kept ones included (default: half of "
                 "what the model was trained for)")
      ->check(CLI::Range(int64_t{1}, int64_t{vga::max_context}))
      ->type_name("W");
  app.add_option("--keep", flags.keep,
                 "Windows to compare: how many first tokens each keeps. 0 and 4 are always there")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{0}, int64_t{vga::max_context}))
      ->capture_default_str()
      ->type_name("N,...");
  app.add_option("-n,--tokens", flags.tokens,
                 "Score N tokens; a shorter text starts over (default: all of the text)")
      ->check(CLI::Range(int64_t{1}, max_text_tokens))
      ->type_name("N");
  app.add_option("-b,--batch", flags.batch, "Tokens computed at once; changes speed alone")
      ->check(CLI::Range(int64_t{1}, int64_t{vga::max_context}))
      ->capture_default_str()
      ->type_name("N");
  app.add_flag("--full", flags.full,
               "Also attend to everything, up to four times what the model was trained for");
  app.add_flag("--recompute", flags.recompute,
               "Also read each window afresh, for " + std::to_string(vga::n_samples) +
                   " tokens spread over the text: the expensive reference");
  auto* json = app.add_flag("--json", flags.json, "Print JSON");
  app.add_flag("--csv", flags.csv, "Print the perplexity of every stretch of W tokens")
      ->excludes(json);
  app.add_option("--plot", flags.plot, "Write perplexity over position as SVG")
      ->type_name("OUT.svg");
  app.add_flag("--check", flags.check,
               "Exit with 0 if the model is sink-free, 2 if nearly, 3 if it needs kept tokens");
  flags.sampler.add_to(app);
  return vga::run_program(app, argc, argv, [&] { return stream(flags); });
}
