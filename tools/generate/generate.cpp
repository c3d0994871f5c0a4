/// vga-generate: continue a text.

#include <iostream>

#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "common/program.h"
#include "common/terminal.h"
#include "common/text_flags.h"

namespace {

struct Flags {
  vga::ModelFlags model;
  vga::SamplerFlags sampler;
  vga::TextFlags prompt;
  int64_t n_predict = 256;  // -1: no limit
  bool special = false;
  bool ignore_end = false;
  bool no_echo = false;
  bool quiet = false;
};

/// Whatever happens to a text on stdout, its last line ends: an error has one of its own.
struct EndOfText {
  ~EndOfText() { std::cout << std::endl; }
};

struct Stats {
  double load_seconds = 0;
  size_t prompt_tokens = 0;
  double prefill_seconds = 0;
  size_t new_tokens = 0;
  double decode_seconds = 0;
};

void print(const Stats& s, const vga::Model& model, const vga::Session& session, uint64_t seed,
           std::string_view why_it_stopped) {
  const auto rate = [](size_t n, double seconds) {
    return vga::short_number(seconds > 0 ? static_cast<double>(n) / seconds : 0) + " tok/s";
  };
  const double decode_rate =
      s.decode_seconds > 0 ? static_cast<double>(s.new_tokens) / s.decode_seconds : 0;
  const double gigabytes = decode_rate * static_cast<double>(model.bytes_per_token()) / 1e9;
  std::cerr << "load " << vga::short_number(1000 * s.load_seconds) << " ms | prefill "
            << s.prompt_tokens << " tokens, " << rate(s.prompt_tokens, s.prefill_seconds)
            << " | decode " << s.new_tokens << " tokens, " << rate(s.new_tokens, s.decode_seconds)
            << ", " << vga::short_number(gigabytes) << " GB/s of weights\n"
            << session.description() << " | seed " << seed << " | stopped: " << why_it_stopped
            << '\n';
  if (const auto context = static_cast<int64_t>(session.context()); session.length() > context) {
    std::cerr << "window " << context << ", the first " << session.keep() << " kept | "
              << session.length() - context << " tokens left it and were forgotten\n";
  }
}

int generate(const Flags& flags) {
  Stats stats;
  const auto sampling = flags.sampler.resolve();
  std::string text = flags.prompt.read();
  // Files and echo end with a line break that nobody means to say, DOS with one of two characters.
  if (!flags.prompt.text && text.ends_with('\n')) {
    text.pop_back();
    if (text.ends_with('\r')) text.pop_back();
  }

  auto start = vga::Clock::now();
  const vga::Model model = flags.model.load();
  vga::Session session(model, flags.model.session);
  stats.load_seconds = vga::seconds_since(start);

  using Special = vga::Tokenizer::Special;
  const vga::Tokenizer& tokenizer = model.tokenizer();
  auto prompt = tokenizer.encode_prompt(text, flags.special ? Special::parse : Special::as_text);
  if (prompt.empty()) throw vga::Error("prompt", "is empty, and this model starts with no <s>");
  vga::note_two_bos(prompt, tokenizer);
  vga::Sampler sampler(sampling);
  for (const vga::Token token : prompt) sampler.accept(token);

  vga::catch_interrupts();
  start = vga::Clock::now();
  {
    vga::Progress progress("prefill", prompt.size());
    session.prefill(prompt, 0, [&](size_t done) {
      progress.update(done);
      return !vga::interrupted();
    });
    session.wait();
  }
  stats.prompt_tokens = static_cast<size_t>(session.length());
  stats.prefill_seconds = vga::seconds_since(start);

  std::string_view why_it_stopped;
  {
    const EndOfText end_of_text;
    if (!flags.no_echo) std::cout << text << std::flush;
    vga::StreamDecoder decoder(tokenizer, !text.empty());
    start = vga::Clock::now();
    while (true) {
      if (vga::interrupted()) why_it_stopped = "interrupted";
      if (static_cast<int64_t>(stats.new_tokens) == flags.n_predict) why_it_stopped = "-n reached";
      if (session.room() == 0) why_it_stopped = "the context is full, --window would go on";
      if (!why_it_stopped.empty()) break;
      const vga::Token token = session.sample(sampler);
      sampler.accept(token);
      if (tokenizer.is_end(token) && !flags.ignore_end) {
        why_it_stopped = "the model ended its text";
        break;
      }
      std::cout << decoder.add(token);
      vga::check_stdout();
      session.append(token);
      ++stats.new_tokens;
    }
    stats.decode_seconds = vga::seconds_since(start);
    std::cout << decoder.finish();
  }
  if (!flags.quiet) print(stats, model, session, sampling.seed, why_it_stopped);
  return vga::interrupted() ? vga::interrupted_status() : 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Continue a text with a language model. The text goes to stdout, all else to stderr.\n\n"
      "  vga-generate -m stories.gguf -p 'Once upon a time'\n"
      "  vga-generate -m stories.gguf -f beginning.txt -n 500 --temp 0 > story.txt\n"
      "  vga-generate -m stories.gguf -p 'Once' --window 256 -n -1 --ignore-end   # Ctrl-C ends "
      "it\n"
      "  echo 'The fox said' | vga-generate -m stories.gguf --seed 7 --quiet",
      "vga-generate");
  Flags flags;
  flags.model.add_to(app);
  flags.model.add_window_to(app);
  flags.prompt.add_to(app, "Text to continue; the line break at its end does not count in a file");
  app.add_option("-n,--predict", flags.n_predict,
                 "Tokens to generate at most; -1: until the text ends, or Ctrl-C")
      ->check(CLI::Range(int64_t{-1}, INT64_MAX))
      ->capture_default_str()
      ->type_name("N");
  app.add_flag("--ignore-end", flags.ignore_end, "Go on when the model ends its text");
  app.add_flag("--special", flags.special, "Read control tokens such as </s> in the prompt");
  app.add_flag("--no-echo", flags.no_echo, "Print only what the model adds");
  app.add_flag("-q,--quiet", flags.quiet, "No statistics at the end");
  flags.sampler.add_to(app);
  return vga::run_program(app, argc, argv, [&] { return generate(flags); });
}
