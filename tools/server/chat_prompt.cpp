#include "server/chat_prompt.h"

#include <deque>

namespace vga {
namespace {

/// Tokens that a template writes around a message, at most about so many.
constexpr size_t around_message = 8;

struct Turn {
  size_t first;  // of its messages
  size_t tokens;
};

/// The first message in view, behind the system prompt. A function of the messages and of nothing
/// before them, so that clients may send the whole conversation each time.
size_t first_in_view(const std::vector<ChatMessage>& messages, const Tokenizer& tokenizer,
                     size_t limit) {
  std::deque<Turn> turns;
  size_t opening = 0;
  size_t total = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const size_t n = tokenizer.encode(messages[i].content).size() + around_message;
    total += n;
    if (messages[i].role == "user") {
      turns.push_back({i, 0});
    } else if (turns.empty()) {
      opening += n;
      continue;
    }
    turns.back().tokens += n;
    if (messages[i].role != "user" || total <= limit) continue;
    while (turns.size() > 1 && total > opening + (limit - std::min(limit, opening)) / 2) {
      total -= turns.front().tokens;
      turns.pop_front();
    }
  }
  return turns.empty() ? messages.size() : turns.front().first;
}

}  // namespace

ChatPrompt make_chat_prompt(const ChatTemplate& format, const std::vector<ChatMessage>& messages,
                            const Tokenizer& tokenizer, std::time_t now,
                            std::optional<size_t> window) {
  ChatPrompt prompt{format.encode(messages, tokenizer, now)};
  if (!window) return prompt;
  const size_t first = first_in_view(messages, tokenizer, *window * 3 / 4);
  std::vector<ChatMessage> view;
  bool begun = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    begun |= messages[i].role == "user";
    if (!begun || i >= first) view.push_back(messages[i]);
  }
  if (view.size() == messages.size()) return prompt;
  const size_t all = prompt.tokens.size();
  prompt.tokens = format.encode(view, tokenizer, now);
  prompt.forgotten = all - std::min(all, prompt.tokens.size());
  return prompt;
}

}  // namespace vga
