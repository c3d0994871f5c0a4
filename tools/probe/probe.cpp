/// vga-probe: what do attention, gates and activations of a model do?

#include <algorithm>
#include <iostream>
#include <optional>

#include "base/file.h"
#include "common/program.h"
#include "common/terminal.h"
#include "common/text_flags.h"
#include "probe/probe_report.h"

namespace {

struct Flags {
  vga::ModelFlags model;
  vga::TextFlags text;
  std::vector<vga::Token> tokens;
  size_t max_blocks = 0;
  std::vector<vga::Token> left_out;
  std::vector<std::string> heads;
  bool json = false;
  std::string html;
};

constexpr size_t default_block = 512;  // as the norms are published for
constexpr size_t shown_heads = 6;

/// The text in blocks of one length, each begun with <s> if the model wants one; what is
/// left over is dropped. A shorter text is one block.
std::vector<std::vector<vga::Token>> cut(const Flags& flags, const vga::Model& model) {
  const bool from_text = flags.tokens.empty();
  const std::vector<vga::Token> tokens =
      from_text ? model.tokenizer().encode_prompt(flags.text.read()) : flags.tokens;
  if (tokens.size() < 2) {
    throw vga::Error("text", "wanted at least 2 tokens, found " + std::to_string(tokens.size()));
  }
  size_t length = flags.model.session.context;
  if (length == 0) length = std::min(default_block, model.config().context_length);
  if (length < 2) throw vga::Error("--context", "wanted at least 2 tokens");
  length = std::min(length, tokens.size());
  std::vector<std::vector<vga::Token>> blocks;
  bool any_counts = false;
  for (size_t begin = 0; begin + length <= tokens.size(); begin += length) {
    if (flags.max_blocks > 0 && blocks.size() == flags.max_blocks) break;
    const auto block = std::span(tokens).subspan(begin, length);
    blocks.emplace_back(block.begin(), block.end());
    if (from_text && model.tokenizer().adds_bos()) blocks.back()[0] = *model.tokenizer().bos();
    // Not the first one alone, which sees nothing but itself.
    any_counts |= std::ranges::any_of(blocks.back().begin() + 1, blocks.back().end(), [&](auto id) {
      return std::ranges::find(flags.left_out, id) == flags.left_out.end();
    });
  }
  if (!any_counts) throw vga::Error("--leave-out", "leaves no query behind the first of a block");
  return blocks;
}

/// The heads asked for as LAYER.HEAD; else of some layers each the one that looks at the first
/// token most.
std::vector<vga::HeadName> choose_heads(const Flags& flags, const vga::ModelProbe& probe) {
  const size_t n_layers = probe.layers.size();
  std::vector<size_t> looking;  // layers with attention
  for (size_t i = 0; i < n_layers; ++i) {
    if (!probe.layers[i].heads.empty()) looking.push_back(i);
  }
  const size_t n_heads = probe.layers[looking[0]].heads.size();
  std::vector<vga::HeadName> heads;
  for (const std::string& name : flags.heads) {
    size_t layer = 0;
    size_t head = 0;
    char rest = 0;
    if (std::sscanf(name.c_str(), "%zu.%zu%c", &layer, &head, &rest) != 2 || layer >= n_layers ||
        head >= n_heads) {
      throw vga::Error("--heads", "wanted LAYER.HEAD from 0.0 to " + std::to_string(n_layers - 1) +
                                      "." + std::to_string(n_heads - 1) + ", found " + name);
    }
    if (probe.layers[layer].heads.empty()) {
      throw vga::Error("--heads",
                       "layer " + std::to_string(layer) + " is a delta net, found " + name);
    }
    heads.emplace_back(layer, head);
  }
  if (!heads.empty()) return heads;
  const size_t n = std::min(shown_heads, looking.size());
  for (size_t i = 0; i < n; ++i) {
    const size_t layer = looking[n == 1 ? 0 : i * (looking.size() - 1) / (n - 1)];
    const auto& all = probe.layers[layer].heads;
    const auto most = std::ranges::max_element(all, {}, &vga::HeadProbe::first_attention);
    heads.emplace_back(layer, static_cast<size_t>(most - all.begin()));
  }
  return heads;
}

int probe(const Flags& flags) {
  const vga::Model model = flags.model.load();
  vga::check_tokens("--tokens", flags.tokens, model);
  vga::check_tokens("--leave-out", flags.left_out, model);
  const auto blocks = cut(flags, model);
  std::optional<vga::OutputFile> page;  // before the text is read
  if (!flags.html.empty()) {
    vga::check_output(flags.html, std::vector{flags.model.file, flags.text.file});
    page.emplace(flags.html);
  }
  vga::catch_interrupts();
  const vga::ModelProbe found =
      vga::probe_model(model, blocks, flags.left_out, flags.model.session.n_threads);
  const auto heads = choose_heads(flags, found);
  if (page) {
    page->write(vga::html_report(model, found, heads));
    page->commit();
  }
  std::cout << (flags.json ? vga::json_report(model, found) : vga::text_report(model, found));
  if (vga::interrupted()) std::cerr << "interrupted: these are the blocks so far\n";
  return vga::interrupted() ? vga::interrupted_status() : 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "What attention, gates and activations of a model do on a text.\n\n"
      "In ordinary attention a head that has nothing to say parks its weight on the first token, "
      "a\n"
      "sink; that token's value is drained and its activations grow out of range. A gate is to\n"
      "prevent that. The text is cut into blocks, each read from its start:\n"
      "  attention on the first token   mean over the queries of a block; times the gate between\n"
      "                                 the two: what really arrives\n"
      "  sink rate       heads that give the first token more than 0.3 on average over the first "
      "64\n"
      "                  queries (Gu et al., arXiv 2410.10781)\n"
      "  value norm      of the first token over the mean of the others, before any gate\n"
      "  infinity norm   largest magnitude in a block, mean over blocks, maximum over tensors;\n"
      "  kurtosis        of a block, mean over blocks and tensors, a Gaussian has 3: both as\n"
      "                  Bondarenko et al. compute them (arXiv 2306.12929)\n\n"
      "  vga-probe -m stories.gguf -f book.txt\n"
      "  vga-probe -m stories.gguf -f book.txt --html report.html --heads 0.1,3.2\n"
      "  vga-probe -m stories.gguf -f book.txt --json | jq .sink_rate",
      "vga-probe");
  Flags flags;
  flags.model.add_to(app);
  app.remove_option(app.get_option("--cache-type"));  // a probe reads what would be cached
  app.get_option("--context")
      ->description("Tokens of a block (default: " + std::to_string(default_block) +
                    ", or what the model was trained for if that is less)");
  flags.text.add_to(app, "Text to read");
  app.add_option("--tokens", flags.tokens,
                 "Token ids instead of a text, separated by commas; blocks begin as they stand")
      ->delimiter(',')
      ->type_name("ID,...");
  app.add_option("--leave-out", flags.left_out,
                 "Queries of these tokens do not count in means of attention, as they have "
                 "something to look for")
      ->delimiter(',')
      ->type_name("ID,...");
  app.add_option("--blocks", flags.max_blocks, "Read only the first N blocks")
      ->check(vga::whole_number())
      ->type_name("N");
  app.add_option("--heads", flags.heads,
                 "Heads whose attention the report shows, as LAYER.HEAD (default: in up to 6 "
                 "layers the one that looks at the first token most)")
      ->delimiter(',')
      ->type_name("L.H,...");
  app.add_flag("--json", flags.json, "Print JSON, with every head's figures");
  app.add_option("--html", flags.html, "Write a report: one page that needs no network")
      ->type_name("REPORT.html");
  return vga::run_program(app, argc, argv, [&] { return probe(flags); });
}
