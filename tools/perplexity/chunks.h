#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/score.h"
#include "vga/vga.h"

/// A text in pieces that a session can hold, and how well a model predicts them.
namespace vga {

/// Something to score: `first` is the first token whose successor counts.
struct Chunk {
  std::vector<Token> tokens;
  size_t first;
};

/// One running text: chunks of a whole context, of which each second half counts, so that every
/// scored token has at least half a context before it.
std::vector<Chunk> chunks_of_text(std::optional<Token> bos, std::span<const Token> tokens,
                                  size_t context);
/// One running text read through a window: every token counts but the first, which nothing
/// predicts.
std::vector<Chunk> whole_text(std::span<const Token> tokens);
/// Documents that stand for themselves: each begins with <s> and ends with </s>, all of it counts.
/// Longer ones than `context` are cut into pieces that each begin with <s> again.
std::vector<Chunk> chunks_of_documents(const Tokenizer& tokenizer, std::string_view text,
                                       const std::string& separator, size_t context);

/// Runs `tokens` from an empty session; visit(i, logits) for every i >= first. False if interrupted
/// before all are done.
bool each_logits(Session& session, std::span<const Token> tokens, size_t first,
                 const std::function<void(size_t i, std::span<const float> logits)>& visit);

/// How well the tokens that count are predicted; of those before an interrupt.
Score score_chunks(Session& session, std::span<const Chunk> chunks);

}  // namespace vga
