#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace vga {

/// Tells what a model thinks before an answer, between <think> and </think>, from the answer.
class Thoughts {
 public:
  /// `begins_inside`: the prompt ended with <think>, so the answer has only its end. `on_text` gets
  /// all of the text, piece by piece; the marks are of the thought.
  Thoughts(bool begins_inside, std::function<void(std::string_view text, bool is_thought)> on_text);

  void add(std::string_view text);
  /// Hands out what was held back because it could have become a mark.
  void finish();

 private:
  enum class State { before, inside, behind };

  void emit(size_t n);

  State state_;
  std::function<void(std::string_view, bool)> on_text_;
  std::string held_;
};

}  // namespace vga
