/// vga-perplexity: how well does a model predict a text?

#include <iostream>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/text.h"
#include "common/program.h"
#include "common/terminal.h"
#include "common/text_flags.h"
#include "perplexity/chunks.h"
#include "perplexity/save_logits.h"
#include "perplexity/w8a8.h"

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
std::vector<vga::Chunk> cut(const Flags& flags, const vga::Model& model,
                            const vga::Session& session) {
  std::vector<vga::Chunk> chunks;
  if (!flags.separator.empty()) {
    chunks = vga::chunks_of_documents(model.tokenizer(), flags.text.read(), flags.separator,
                                      session.slides() ? SIZE_MAX : session.context());
  } else if (!flags.tokens.empty()) {
    chunks = session.slides() ? vga::whole_text(flags.tokens)
                              : vga::chunks_of_text(std::nullopt, flags.tokens, session.context());
  } else {
    const vga::Tokenizer& tokenizer = model.tokenizer();
    const auto tokens = tokenizer.encode_prompt(flags.text.read());
    const auto bos = tokenizer.adds_bos() ? tokenizer.bos() : std::nullopt;
    chunks = session.slides() ? vga::whole_text(tokens)
                              : vga::chunks_of_text(bos, tokens, session.context());
  }
  if (flags.max_chunks > 0) chunks.resize(std::min(chunks.size(), flags.max_chunks));
  return chunks;
}

/// Of another text.
std::vector<vga::Chunk> calibration_chunks(const Flags& flags, const vga::Model& model,
                                           const vga::Session& session) {
  const vga::Tokenizer& tokenizer = model.tokenizer();
  const auto bos = tokenizer.adds_bos() ? tokenizer.bos() : std::nullopt;
  return vga::chunks_of_text(bos, tokenizer.encode_prompt(vga::read_text_file(flags.calibrate)),
                             session.context());
}

/// Writes all logits; the exit status.
int save(const Flags& flags, const vga::Model& model, vga::Session& session) {
  vga::check_output(flags.save_logits, std::vector{flags.model.file, flags.text.file});
  const std::vector<vga::Token> tokens =
      !flags.tokens.empty() ? flags.tokens : model.tokenizer().encode_prompt(flags.text.read());
  const size_t n_vocab = model.config().vocab_size;
  vga::catch_interrupts();
  if (!vga::save_logits(session, tokens, n_vocab, flags.save_logits)) {
    std::cerr << "interrupted, nothing was written\n";
    return vga::interrupted_status();
  }
  std::cerr << "wrote float32 (" << tokens.size() << ", " << n_vocab << ") to "
            << vga::printable(flags.save_logits) << '\n';
  return 0;
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
  if (!flags.save_logits.empty()) return save(flags, model, session);
  const std::vector<vga::Chunk> chunks = cut(flags, model, session);
  const std::vector<vga::Chunk> calibration =
      flags.calibrate.empty() ? chunks : calibration_chunks(flags, model, session);

  vga::catch_interrupts();
  const vga::Score score = vga::score_chunks(session, chunks);
  if (score.tokens == 0) {
    std::cerr << "interrupted before any token was scored\n";
  } else if (!flags.w8a8) {
    print(flags, score, chunks.size(), session);
    if (vga::interrupted()) std::cerr << "interrupted: this is the value so far\n";
  } else if (!vga::interrupted()) {
    const vga::Score rounded = vga::score_w8a8(flags.model, chunks, calibration);
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
  app.get_option("--context")
      ->description("Tokens of a chunk (default: 512, or what the model was trained for)");
  flags.model.add_window_to(app);
  flags.text.add_to(app, "Text to score");
  app.add_option("--tokens", flags.tokens, "Token ids instead of a text, separated by commas")
      ->delimiter(',')
      ->type_name("ID,...");
  app.add_option("--documents", flags.separator,
                 "The text is documents, separated by such a line: score every token of each, "
                 "</s> included, started with <s>")
      ->type_name("LINE");
  app.add_option("--chunks", flags.max_chunks, "Score only the first N chunks")
      ->check(vga::whole_number())
      ->type_name("N");
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
