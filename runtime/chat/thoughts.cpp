#include "vga/thoughts.h"

#include <algorithm>

#include "base/prefix.h"

namespace vga {

bool opens_thought(std::span<const Tokenizer::Part> prompt) {
  std::string_view end = prompt.empty() ? std::string_view() : prompt.back().text;
  while (end.ends_with('\n')) end.remove_suffix(1);
  return end.ends_with(thought_opening);
}

Thoughts::Thoughts(bool begins_inside, std::function<void(std::string_view, bool)> on_text)
    : state_(begins_inside ? State::inside : State::before), on_text_(std::move(on_text)) {}

void Thoughts::emit(size_t n) {
  if (n > 0) on_text_(std::string_view(held_).substr(0, n), state_ == State::inside);
  held_.erase(0, n);
}

void Thoughts::add(std::string_view text) {
  held_ += text;
  if (state_ == State::before) {
    // Only spaces may stand before a thought.
    const std::string_view words =
        std::string_view(held_).substr(std::min(held_.find_first_not_of(" \t\r\n"), held_.size()));
    if (words.starts_with(thought_opening)) {
      emit(held_.size() - words.size());
      state_ = State::inside;
    } else if (!thought_opening.starts_with(words)) {
      state_ = State::behind;
    } else {
      emit(held_.size() - words.size());
      return;
    }
  }
  if (state_ == State::inside) {
    const size_t end = held_.find(thought_closing);
    if (end == std::string::npos) {
      emit(held_.size() - begun(held_, thought_closing));
      return;
    }
    emit(end + thought_closing.size());
    state_ = State::behind;
  }
  emit(held_.size());
}

void Thoughts::finish() {
  emit(held_.size());
}

}  // namespace vga
