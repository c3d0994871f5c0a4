/// vga-perplexity: how well does a model predict a text?

#include <iostream>

#include <nlohmann/json.hpp>

#include "file.h"
#include "npy.h"
#include "program.h"
#include "score.h"
#include "terminal.h"
#include "text.h"
#include "w8a8.h"

namespace {

struct Flags {
  vga::ModelFlags model;
  vga::TextFlags text;
  std::vector<vga::Token> tokens;
  std::string save_logits;
  std::string separator;
  size_t max_chunks = 0;
  bool w8a8 = false;
  std::string calibrate;
  bool json = false;
};

/// Runs `tokens` from an empty session; visit(i, logits) for every i >= first. False if interrupted
/// before all are done.
template <class Visit>
bool each_logits(vga::Session& session, std::span<const vga::Token> tokens, size_t first,
                 Visit&& visit) {
  session.truncate(0);
  std::vector<vga::Row> rows;
  for (size_t begin = 0; begin < tokens.size(); begin += rows.size()) {
    rows.clear();
    while (rows.size() < session.max_batch() && begin + rows.size() < tokens.size()) {
      const size_t i = begin + rows.size();
      rows.push_back({tokens[i], static_cast<int64_t>(i), 0, i >= first});
    }
    const std::span<const float> logits = session.decode(rows);
    const size_t n_wanted =
        static_cast<size_t>(std::ranges::count(rows, true, &vga::Row::wants_logits));
    const size_t n_vocab = n_wanted == 0 ? 0 : logits.size() / n_wanted;
    for (size_t i = 0; i < n_wanted; ++i) {
      visit(begin + rows.size() - n_wanted + i, logits.subspan(i * n_vocab, n_vocab));
    }
    if (vga::interrupted()) return begin + rows.size() == tokens.size();
  }
  return true;
}

void save_logits(const Flags& flags, const vga::Model& model, vga::Session& session) {
  vga::check_output(flags.save_logits, std::vector{flags.model.file, flags.text.file});
  const std::vector<vga::Token> tokens =
      !flags.tokens.empty() ? flags.tokens : model.tokenizer().encode_prompt(flags.text.read());
  const auto room = static_cast<size_t>(session.room());
  if (tokens.empty() || tokens.size() > room) {
    throw vga::Error("--save-logits", "wanted 1 to " + std::to_string(room) +
                                          " tokens (-c sets the context), found " +
                                          std::to_string(tokens.size()));
  }
  vga::OutputFile out(flags.save_logits);
  out.write(vga::npy_header(tokens.size(), model.config().vocab_size));
  const auto write = [&](size_t, std::span<const float> logits) {
    out.write(std::as_bytes(logits));
  };
  if (!each_logits(session, tokens, 0, write)) {
    std::cerr << "interrupted, nothing was written\n";
    return;
  }
  out.commit();
  std::cerr << "wrote float32 (" << tokens.size() << ", " << model.config().vocab_size << ") to "
            << vga::printable(flags.save_logits) << '\n';
}

/// Something to score: `first` is the first token whose successor counts.
struct Chunk {
  std::vector<vga::Token> tokens;
  size_t first;
};

/// One running text: chunks of a whole context, of which each second half counts, so that every
/// scored token has at least half a context before it.
std::vector<Chunk> chunks_of_text(std::optional<vga::Token> bos, std::span<const vga::Token> tokens,
                                  size_t context) {
  if (tokens.size() < context) {
    throw vga::Error("text", "wanted at least one context of " + std::to_string(context) +
                                 " tokens, found " + std::to_string(tokens.size()));
  }
  std::vector<Chunk> chunks;
  for (size_t begin = 0; begin + context <= tokens.size(); begin += context) {
    const auto window = tokens.subspan(begin, context);
    chunks.push_back({{window.begin(), window.end()}, context / 2});
    if (bos) chunks.back().tokens[0] = *bos;
  }
  return chunks;
}

/// One running text read through a window: every token counts but the first, which nothing
/// predicts.
std::vector<Chunk> whole_text(std::span<const vga::Token> tokens) {
  if (tokens.size() < 2) {
    throw vga::Error("text", "wanted at least 2 tokens, found " + std::to_string(tokens.size()));
  }
  return {{{tokens.begin(), tokens.end()}, 0}};
}

/// Documents that stand for themselves: each begins with <s> and ends with </s>, all of it counts.
/// Longer ones than `context` are cut into pieces that each begin with <s> again.
std::vector<Chunk> chunks_of_documents(const vga::Tokenizer& tokenizer, std::string_view text,
                                       const std::string& separator, size_t context) {
  if (!tokenizer.bos() || !tokenizer.eos()) {
    throw vga::Error("--documents", "this model's vocabulary has no <s> or no </s>");
  }
  std::vector<Chunk> chunks;
  const std::string line = "\n" + separator + "\n";
  while (!text.empty()) {
    const size_t end = text.find(line);
    const std::string_view document = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + line.size());
    if (document.find_first_not_of(" \n") == std::string_view::npos) continue;
    std::vector<vga::Token> tokens = tokenizer.encode(document);
    tokens.push_back(*tokenizer.eos());
    for (size_t begin = 0; begin < tokens.size(); begin += context - 1) {
      const size_t n = std::min(context - 1, tokens.size() - begin);
      Chunk chunk{{*tokenizer.bos()}, 0};
      const auto from = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
      chunk.tokens.insert(chunk.tokens.end(), from, from + static_cast<std::ptrdiff_t>(n));
      chunks.push_back(std::move(chunk));
    }
  }
  if (chunks.empty()) throw vga::Error("text", "holds no documents");
  return chunks;
}

vga::Score score_chunks(vga::Session& session, std::span<const Chunk> chunks) {
  size_t total = 0;
  for (const Chunk& chunk : chunks) total += chunk.tokens.size();
  vga::Progress progress("scoring", total);
  vga::Score score;
  size_t done = 0;
  for (const Chunk& chunk : chunks) {
    // The last token is only predicted: nothing comes after it.
    const auto inputs = std::span(chunk.tokens).first(chunk.tokens.size() - 1);
    each_logits(session, inputs, chunk.first, [&](size_t i, std::span<const float> logits) {
      score.add(vga::negative_log_likelihood(logits, chunk.tokens[i + 1]));
      progress.update(done + i, "perplexity " + vga::short_number(score.perplexity()) + " ± " +
                                    vga::short_number(score.error()));
    });
    done += chunk.tokens.size();
    if (vga::interrupted()) break;
  }
  return score;
}

void print(const Flags& flags, const vga::Score& score, size_t n_chunks,
           const vga::Session& session) {
  if (flags.json) {
    nlohmann::ordered_json out = {{"model", flags.model.file}, {"perplexity", score.perplexity()},
                                  {"error", score.error()},    {"nll", score.mean()},
                                  {"tokens", score.tokens},    {"chunks", n_chunks}};
    out[session.slides() ? "window" : "context"] = session.context();
    if (session.slides()) out["keep"] = session.keep();
    std::cout << out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  } else if (session.slides()) {
    std::printf(
        "perplexity %.4f ± %.4f  (nll %.4f, %zu tokens scored through a window of %zu, of "
        "which the first %zu are kept)\n",
        score.perplexity(), score.error(), score.mean(), score.tokens, session.context(),
        session.keep());
  } else {
    std::printf(
        "perplexity %.4f ± %.4f  (nll %.4f, %zu tokens scored in %zu pieces of up to %zu)\n",
        score.perplexity(), score.error(), score.mean(), score.tokens, n_chunks, session.context());
  }
}

/// What the text is cut into: one piece with a window, documents, or chunks as long as the context.
std::vector<Chunk> cut(const Flags& flags, const vga::Model& model, const vga::Session& session) {
  std::vector<Chunk> chunks;
  if (!flags.separator.empty()) {
    chunks = chunks_of_documents(model.tokenizer(), flags.text.read(), flags.separator,
                                 session.slides() ? SIZE_MAX : session.context());
  } else if (!flags.tokens.empty()) {
    chunks = session.slides() ? whole_text(flags.tokens)
                              : chunks_of_text(std::nullopt, flags.tokens, session.context());
  } else {
    const vga::Tokenizer& tokenizer = model.tokenizer();
    const auto tokens = tokenizer.encode_prompt(flags.text.read());
    const auto bos = tokenizer.adds_bos() ? tokenizer.bos() : std::nullopt;
    chunks = session.slides() ? whole_text(tokens) : chunks_of_text(bos, tokens, session.context());
  }
  if (flags.max_chunks > 0) chunks.resize(std::min(chunks.size(), flags.max_chunks));
  return chunks;
}

/// A file of its own, gone at the end.
class TemporaryFile {
 public:
  TemporaryFile() {
    std::string path = (std::filesystem::temp_directory_path() / "vga-w8a8-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) throw vga::Error(path, "cannot make this folder");
    folder_ = path;
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::filesystem::path path() const { return folder_ / "model.gguf"; }

 private:
  std::filesystem::path folder_;
};

/// The perplexity with weights and activations of 8 bits, on the same chunks.
vga::Score score_w8a8(const Flags& flags, const vga::Model& model, std::span<const Chunk> chunks) {
  constexpr size_t n_calibration = 16;
  const TemporaryFile file;
  if (!vga::write_int8_weights(flags.model.file, file.path(), flags.model.session.n_threads)) {
    return {};
  }
  vga::ModelOptions options = flags.model.model;
  options.session = flags.model.session;
  const vga::Model rounded = vga::load_model(file.path(), options);
  vga::Session session(rounded, options.session);
  std::vector<Chunk> calibration(chunks.begin(), chunks.end());
  if (!flags.calibrate.empty()) {
    const vga::Tokenizer& tokenizer = model.tokenizer();
    const auto bos = tokenizer.adds_bos() ? tokenizer.bos() : std::nullopt;
    calibration = chunks_of_text(bos, tokenizer.encode_prompt(vga::read_text(flags.calibrate)),
                                 session.context());
  }
  calibration.resize(std::min(calibration.size(), n_calibration));
  vga::Int8Activations activations(rounded.config());
  session.observe(&activations);
  for (const Chunk& chunk : calibration) {
    // All rows want logits, as the last norm is seen for such rows alone.
    each_logits(session, chunk.tokens, 0, [](size_t, std::span<const float>) {});
    if (vga::interrupted()) return {};
  }
  activations.calibrating = false;
  return score_chunks(session, chunks);
}

void print_w8a8(const Flags& flags, const vga::Score& full, const vga::Score& rounded) {
  const double delta = rounded.perplexity() - full.perplexity();
  if (flags.json) {
    const nlohmann::ordered_json out = {{"model", flags.model.file},
                                        {"perplexity", full.perplexity()},
                                        {"w8a8_perplexity", rounded.perplexity()},
                                        {"delta", delta},
                                        {"tokens", full.tokens}};
    std::cout << out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  } else {
    std::printf(
        "perplexity %.4f, with weights and activations in 8 bits %.4f, %+.4f  (%zu tokens)\n",
        full.perplexity(), rounded.perplexity(), delta, full.tokens);
  }
}

int perplexity(Flags flags) {
  vga::SessionOptions& options = flags.model.session;
  // 512 is what published figures mostly use; a longer context is asked for with -c.
  const bool by_default = options.window == 0 && options.context == 0;
  if (by_default) options.context = 512;
  if (flags.w8a8) {
    options.max_batch = options.context;  // a chunk is one batch
    options.cache_type = vga::DType::f32;
  }
  const vga::Model model = flags.model.load();
  vga::check_tokens("--tokens", flags.tokens, model);
  if (by_default) options.context = std::min(options.context, model.config().context_length);
  vga::Session session(model, options);
  if (!session.slides() && session.context() < 4) {
    throw vga::Error("--context", "wanted at least 4 tokens");
  }
  if (!flags.save_logits.empty()) {
    vga::catch_interrupts();
    save_logits(flags, model, session);
    return vga::interrupted() ? vga::interrupted_status() : 0;
  }
  const std::vector<Chunk> chunks = cut(flags, model, session);

  vga::catch_interrupts();
  const vga::Score score = score_chunks(session, chunks);
  if (score.tokens == 0) {
    std::cerr << "interrupted before any token was scored\n";
  } else if (!flags.w8a8) {
    print(flags, score, chunks.size(), session);
    if (vga::interrupted()) std::cerr << "interrupted: this is the value so far\n";
  } else if (!vga::interrupted()) {
    const vga::Score rounded = score_w8a8(flags, model, chunks);
    if (!vga::interrupted()) print_w8a8(flags, score, rounded);
  }
  return vga::interrupted() ? vga::interrupted_status() : 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Perplexity of a text under a model, with its standard error.\n"
      "The text is cut into chunks of the context's length, each started with <s> if the model\n"
      "wants one; the tokens of each second half are scored, so every one has at least half a\n"
      "context before it. llama.cpp's llama-perplexity measures the same. With --window the text\n"
      "is read in one piece and every token scored, however long it is.\n\n"
      "  vga-perplexity -m stories.gguf -f book.txt\n"
      "  vga-perplexity -m stories.gguf -f book.txt --window 256 --keep 4\n"
      "  vga-perplexity -m stories.gguf -f stories.txt --documents '<|endoftext|>'\n"
      "  vga-perplexity -m stories.gguf -f book.txt --w8a8 --calibrate other.txt\n"
      "  vga-perplexity -m stories.gguf --tokens 1,403,261 --save-logits logits.npy",
      "vga-perplexity");
  Flags flags;
  flags.model.add_to(app);
  flags.model.add_window_to(app);
  flags.text.add_to(app, "Text to score");
  app.add_option("--tokens", flags.tokens, "Token ids instead of a text, separated by commas")
      ->delimiter(',')
      ->type_name("ID,...");
  app.add_option("--documents", flags.separator,
                 "The text is documents, separated by such a line: score every token of each, "
                 "</s> included, started with <s>")
      ->type_name("LINE");
  app.add_option("--chunks", flags.max_chunks, "Score only the first N chunks")->type_name("N");
  app.add_option("--save-logits", flags.save_logits,
                 "Write the logits of all tokens as float32 (n_tokens, vocab) and stop")
      ->type_name("OUT.npy");
  auto* w8a8 = app.add_flag("--w8a8", flags.w8a8,
                            "Also simulate INT8 inference: weights and activations rounded to 8 "
                            "bits, one range each for a whole tensor")
                   ->excludes("--window")
                   ->excludes("--save-logits");
  app.add_option("--calibrate", flags.calibrate,
                 "Text whose first 16 chunks set the ranges of activations (default: those of "
                 "the text itself)")
      ->needs(w8a8)
      ->type_name("TEXT");
  app.add_flag("--json", flags.json, "Print the result as JSON");
  return vga::run_program(app, argc, argv, [&] { return perplexity(flags); });
}
