#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vga/thoughts.h"
#include "vga/tokenizer.h"

namespace vga {

/// Cuts a text that comes piece by piece at the first of some strings.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// What of the text so far cannot be the beginning of a stop string and was not handed out yet;
  /// nothing behind one.
  std::string add(std::string_view text);
  /// What was held back.
  std::string finish();
  bool found() const { return found_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

/// The text of an answer as its tokens come: whole characters, nothing from a stop string on, what
/// the model thinks apart from what it says.
class AnswerText {
 public:
  struct Piece {
    std::string text;
    std::string thought;
  };
  /// `thinks`: <think> ... </think> is a thought; `begins_inside`: the prompt opened one.
  /// `continues`: the answer goes on with a text, so that a leading space is of it.
  AnswerText(const Tokenizer& tokenizer, std::vector<std::string> stops, bool thinks,
             bool begins_inside, bool continues);
  AnswerText(const AnswerText&) = delete;
  AnswerText& operator=(const AnswerText&) = delete;

  /// What the token completes. `characters` is all of that, stop strings and marks included.
  Piece add(Token token, std::string* characters = nullptr);
  Piece finish();
  /// Whether a stop string came: the answer is at its end.
  bool stopped() const { return stops_.found(); }

 private:
  Piece pass(const std::string& text, bool last);

  StreamDecoder decoder_;
  StopStrings stops_;
  Piece piece_;  // in the making
  std::optional<Thoughts> thoughts_;
};

}  // namespace vga
