#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "vga/tokenizer.h"

namespace vga {

constexpr std::string_view thought_opening = "<think>";
constexpr std::string_view thought_closing = "</think>";

/// Whether the answer to this prompt begins inside of a thought, as a template opened one for it.
bool opens_thought(std::span<const Tokenizer::Part> prompt);

/// Tells what a model thinks before an answer, between <think> and </think>, from the answer.
class Thoughts {
 public:
  /// `begins_inside`: the prompt ended with <think>, so the answer has only its end. `on_text` gets
  /// all of the text, piece by piece; the marks are of the thought, each in one
  /// piece.
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
