#include "server/answer_text.h"

#include <algorithm>
#include <utility>

#include "base/prefix.h"

namespace vga {

std::string StopStrings::add(std::string_view text) {
  if (found_) return {};
  held_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    found_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  size_t tail = 0;  // that may become one
  for (const std::string& stop : stops_) tail = std::max(tail, begun(held_, stop));
  std::string out = held_.substr(0, held_.size() - tail);
  held_.erase(0, out.size());
  return out;
}

std::string StopStrings::finish() {
  return std::exchange(held_, {});
}

AnswerText::AnswerText(const Tokenizer& tokenizer, std::vector<std::string> stops, bool thinks,
                       bool begins_inside, bool continues)
    : decoder_(tokenizer, continues), stops_(std::move(stops)) {
  if (!thinks) return;
  thoughts_.emplace(begins_inside, [this](std::string_view text, bool is_thought) {
    if (!is_thought) {
      piece_.text += text;
      return;
    }
    if (text.starts_with(thought_opening)) text.remove_prefix(thought_opening.size());
    if (text.ends_with(thought_closing)) text.remove_suffix(thought_closing.size());
    piece_.thought += text;
  });
}

AnswerText::Piece AnswerText::pass(const std::string& text, bool last) {
  if (!thoughts_) {
    piece_.text += text;
  } else {
    thoughts_->add(text);
    if (last) thoughts_->finish();
  }
  return std::exchange(piece_, {});
}

AnswerText::Piece AnswerText::add(Token token, std::string* characters) {
  const std::string text = decoder_.add(token);
  if (characters != nullptr) *characters = text;
  return pass(stops_.add(text), stops_.found());
}

AnswerText::Piece AnswerText::finish() {
  std::string text = stops_.add(decoder_.finish());
  if (!stops_.found()) text += stops_.finish();
  return pass(text, true);
}

}  // namespace vga
