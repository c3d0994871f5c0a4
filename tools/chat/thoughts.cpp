#include "chat/thoughts.h"

#include <algorithm>

namespace vga {
namespace {

constexpr std::string_view opening = "<think>";
constexpr std::string_view closing = "</think>";

/// How many bytes at the end of `text` could be the beginning of `mark`.
size_t begun(std::string_view text, std::string_view mark) {
  size_t n = std::min(text.size(), mark.size() - 1);
  while (!text.ends_with(mark.substr(0, n))) --n;
  return n;
}

}  // namespace

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
    if (words.starts_with(opening)) {
      emit(held_.size() - words.size());
      state_ = State::inside;
    } else if (!opening.starts_with(words)) {
      state_ = State::behind;
    } else {
      emit(held_.size() - words.size());
      return;
    }
  }
  if (state_ == State::inside) {
    const size_t end = held_.find(closing);
    if (end == std::string::npos) {
      emit(held_.size() - begun(held_, closing));
      return;
    }
    emit(end + closing.size());
    state_ = State::behind;
  }
  emit(held_.size());
}

void Thoughts::finish() {
  emit(held_.size());
}

}  // namespace vga
