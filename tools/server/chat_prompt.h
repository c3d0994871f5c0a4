#pragma once

#include <ctime>
#include <optional>
#include <vector>

#include "vga/chat_template.h"
#include "vga/tokenizer.h"

namespace vga {

struct ChatPrompt {
  std::vector<Token> tokens;
  size_t forgotten = 0;  // tokens of the turns that were left out
};

/// The conversation up to the model's answer. With a window, whole turns at its beginning are left
/// out where it gets too long, never the system prompt or the last question: when a turn brings it
/// over three quarters of the window, as many go as halve that. So the beginning stays the same for
/// many turns, and a sequence that has read it goes on.
ChatPrompt make_chat_prompt(const ChatTemplate& format, const std::vector<ChatMessage>& messages,
                            const Tokenizer& tokenizer, std::time_t now,
                            std::optional<size_t> window);

}  // namespace vga
