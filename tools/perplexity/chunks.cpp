#include "perplexity/chunks.h"

#include <algorithm>

#include "common/program.h"
#include "common/terminal.h"

namespace vga {

namespace {

/// What stands between lines that are `separator`, without the line break before them. Lines may
/// end as DOS has it.
std::vector<std::string_view> documents_of(std::string_view text, std::string_view separator) {
  const auto take_off = [](std::string_view& part, char c) {
    if (part.ends_with(c)) part.remove_suffix(1);
  };
  std::vector<std::string_view> documents;
  size_t begin = 0;  // of a document
  for (size_t line = 0; line < text.size();) {
    const size_t next = std::min(text.find('\n', line), text.size() - 1) + 1;
    std::string_view content = text.substr(line, next - line);
    take_off(content, '\n');
    take_off(content, '\r');
    if (content == separator) {
      documents.push_back(text.substr(begin, line - begin));
      take_off(documents.back(), '\n');
      take_off(documents.back(), '\r');
      begin = next;
    }
    line = next;
  }
  documents.push_back(text.substr(begin));
  return documents;
}

}  // namespace

std::vector<Chunk> chunks_of_text(std::optional<Token> bos, std::span<const Token> tokens,
                                  size_t context) {
  if (tokens.size() < context) {
    throw Error("text", "wanted at least one context of " + std::to_string(context) +
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

std::vector<Chunk> whole_text(std::span<const Token> tokens) {
  if (tokens.size() < 2) {
    throw Error("text", "wanted at least 2 tokens, found " + std::to_string(tokens.size()));
  }
  return {{{tokens.begin(), tokens.end()}, 0}};
}

std::vector<Chunk> chunks_of_documents(const Tokenizer& tokenizer, std::string_view text,
                                       const std::string& separator, size_t context) {
  if (!tokenizer.bos() || !tokenizer.eos()) {
    throw Error("--documents", "this model's vocabulary has no <s> or no </s>");
  }
  std::vector<Chunk> chunks;
  for (const std::string_view document : documents_of(text, separator)) {
    if (document.find_first_not_of(" \r\n") == std::string_view::npos) continue;
    std::vector<Token> tokens = tokenizer.encode(document);
    tokens.push_back(*tokenizer.eos());
    for (size_t begin = 0; begin < tokens.size(); begin += context - 1) {
      const size_t n = std::min(context - 1, tokens.size() - begin);
      Chunk chunk{{*tokenizer.bos()}, 0};
      const auto from = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
      chunk.tokens.insert(chunk.tokens.end(), from, from + static_cast<std::ptrdiff_t>(n));
      chunks.push_back(std::move(chunk));
    }
  }
  if (chunks.empty()) throw Error("text", "holds no documents");
  return chunks;
}

bool each_logits(Session& session, std::span<const Token> tokens, size_t first,
                 const std::function<void(size_t, std::span<const float>)>& visit) {
  session.truncate(0);
  std::vector<Row> rows;
  for (size_t begin = 0; begin < tokens.size(); begin += rows.size()) {
    rows.clear();
    while (rows.size() < session.max_batch() && begin + rows.size() < tokens.size()) {
      const size_t i = begin + rows.size();
      rows.push_back({tokens[i], static_cast<int64_t>(i), 0, i >= first});
    }
    const std::span<const float> logits = session.decode(rows);
    const size_t n_wanted = static_cast<size_t>(std::ranges::count(rows, true, &Row::wants_logits));
    const size_t n_vocab = n_wanted == 0 ? 0 : logits.size() / n_wanted;
    for (size_t i = 0; i < n_wanted; ++i) {
      visit(begin + rows.size() - n_wanted + i, logits.subspan(i * n_vocab, n_vocab));
    }
    if (interrupted()) return begin + rows.size() == tokens.size();
  }
  return true;
}

Score score_chunks(Session& session, std::span<const Chunk> chunks) {
  size_t total = 0;
  for (const Chunk& chunk : chunks) total += chunk.tokens.size();
  Progress progress("scoring", total);
  Score score;
  size_t done = 0;
  for (const Chunk& chunk : chunks) {
    // The last token is only predicted: nothing comes after it.
    const auto inputs = std::span(chunk.tokens).first(chunk.tokens.size() - 1);
    each_logits(session, inputs, chunk.first, [&](size_t i, std::span<const float> logits) {
      score.add(negative_log_likelihood(logits, chunk.tokens[i + 1]));
      progress.update(done + i, "perplexity " + short_number(score.perplexity()) + " ± " +
                                    short_number(score.error()));
    });
    done += chunk.tokens.size();
    if (interrupted()) break;
  }
  return score;
}

}  // namespace vga
