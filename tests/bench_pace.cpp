/// Whether a token costs the same far into a stream as at its beginning. One session reads N tokens
/// through a window; then it and a new one, whose window has just filled, take turns over the same
/// text, so that whatever else the machine does slows both.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "base/file.h"
#include "vga/vga.h"

namespace {

constexpr size_t n_measured = 10'000;
constexpr size_t batch = 64;

/// A session that reads an endless text, from a place of its own in it.
struct Reader {
  vga::Session session;
  const std::vector<vga::Token>* text;
  size_t begin = 0;

  /// Reads n tokens, `at_once` in a batch, each with its logits; microseconds per token.
  double read(size_t n, size_t at_once) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<vga::Row> rows;
    for (size_t done = 0; done < n; done += rows.size()) {
      rows.clear();
      const auto first = static_cast<size_t>(session.length());
      for (size_t i = first; i < first + std::min(at_once, n - done); ++i) {
        rows.push_back({(*text)[(begin + i) % text->size()], static_cast<int64_t>(i), 0, true});
      }
      session.decode(rows);
    }
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    return time.count() / static_cast<double>(n);
  }
};

double quantile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

/// Turns of one window's length each, n_measured tokens for either.
void compare(Reader& old, Reader& young, size_t window, size_t at_once) {
  std::vector<double> of_old;
  std::vector<double> of_young;
  std::vector<double> ratios;
  for (size_t turn = 0; turn * window < n_measured; ++turn) {
    const bool old_first = turn % 2 == 0;
    if (old_first) of_old.push_back(old.read(window, at_once));
    of_young.push_back(young.read(window, at_once));
    if (!old_first) of_old.push_back(old.read(window, at_once));
    ratios.push_back(of_old.back() / of_young.back());
  }
  std::printf("%5zu  %10.1f  %10.1f  %+8.2f %%  %+7.2f to %+.2f %%  %zu\n", at_once,
              quantile(of_young, 0.5), quantile(of_old, 0.5), 100 * (quantile(ratios, 0.5) - 1),
              100 * (quantile(ratios, 0.25) - 1), 100 * (quantile(ratios, 0.75) - 1),
              ratios.size());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fputs("usage: bench-pace MODEL.gguf TEXT WINDOW KEEP TOKENS\n", stderr);
    return 1;
  }
  try {
    const vga::Model model = vga::Model::load(argv[1]);
    const std::vector<vga::Token> text = model.tokenizer().encode(vga::read_text(argv[2]));
    const size_t window = std::stoul(argv[3]);
    const size_t n_tokens = std::stoul(argv[5]);
    const vga::SessionOptions options{.window = window,
                                      .keep = std::stoul(argv[4]),
                                      .n_threads = 1,
                                      .max_batch = std::min(batch, window)};
    Reader old{vga::Session(model, options), &text};
    old.read(n_tokens, options.max_batch);
    std::printf(
        "microseconds a token at the beginning and after %zu tokens, medians; the median\n"
        "of the ratios of neighbouring turns, its quartiles, their number\n"
        "batch   beginning       later\n",
        n_tokens);
    for (int round = 0; round < 3; ++round) {
      for (const size_t at_once : {size_t{1}, options.max_batch}) {
        Reader young{vga::Session(model, options), &text,
                     static_cast<size_t>(old.session.length()) - 2 * window};
        young.read(2 * window, options.max_batch);
        compare(old, young, window, at_once);
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench-pace: error: %s\n", error.what());
    return 1;
  }
}
