#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "vga/chat_template.h"
#include "vga/vga.h"

namespace vga {

/// One exchange.
struct Turn {
  std::string user;
  std::string answer;
};

/// A chat: turns of a user and a model in one session. With a chat format each turn is wrapped in
/// the format's markers; without one the model plainly continues the growing text, which is what a
/// storyteller does.
///
/// If the session has a window, a chat goes on for ever. With a format whole turns leave the
/// model's view, oldest first, as soon as the next token would push a part of them out: what it
/// sees is always a conversation as the format has it, the opening (everything before the first
/// user's words: <s>, system prompt, marker) followed by a user's words. A turn that fills the
/// window by itself ends there. Without a format the window slides token by token.
class Conversation {
 public:
  /// `keeps_opening`: with a window and a format, session.keep is not used; what is kept is the
  /// opening, however long the system prompt makes it.
  Conversation(const Model& model, const SessionOptions& session, const SamplerOptions& sampler,
               std::optional<ChatFormat> format, bool keeps_opening = true);

  struct Answer {
    std::string text;
    size_t prompt_tokens = 0;
    size_t tokens = 0;
    double prefill_seconds = 0;
    double decode_seconds = 0;
    bool context_full = false;  // the answer was cut: no room in the context, or the turn alone
                                // fills the window
    bool taken_back = false;    // `keep_going` ended it before all of `user` was read
  };
  /// Feeds `user` and generates until the model ends its turn, `keep_going` returns false, or
  /// max_tokens are out. `on_text` gets the answer piece by piece, whole characters only.
  /// What was generated stays in the conversation however it ended. A turn that was not read to its
  /// end is taken back; where a window has slid too far for that, all is forgotten.
  /// Throws ContextFull before anything is changed if `user` does not fit, not even alone into the
  /// window.
  Answer ask(const std::string& user, size_t max_tokens,
             const std::function<void(std::string_view)>& on_text,
             const std::function<bool()>& keep_going);

  /// Forgets all turns; the system prompt stays.
  void clear();
  /// Sets the system prompt and forgets all turns. An Error if the format has no place for one, or
  /// if it leaves no room in the window; the conversation stays as it was then.
  void set_system(const std::string& system);
  /// Replaces the conversation by a saved one. If that does not fit, has an empty turn or is ended
  /// by `keep_going`, which makes it false, the conversation is empty.
  bool replay(const std::string& system, const std::vector<Turn>& turns,
              const std::function<bool()>& keep_going);

  const std::string& system() const { return system_; }
  /// The turns in view; those that left the window are gone.
  const std::deque<Turn>& turns() const { return turns_; }
  size_t forgotten_turns() const { return forgotten_turns_; }
  /// Tokens that the next token will not see any more.
  int64_t forgotten_tokens() const;
  const Session& session() const { return *session_; }
  std::optional<ChatFormat> format() const { return format_; }

 private:
  bool by_turns() const { return format_ && session_->slides(); }
  std::vector<Token> render(bool first, const std::string& system, const std::string& user) const;
  size_t words_begin(bool first, const std::string& system, const std::string& user) const;
  void start_over(const std::string& system);
  bool begin_turn(const std::string& user, std::span<const Token> prompt,
                  const std::function<bool()>& keep_going);
  bool read(std::span<const Token> tokens, const std::function<bool()>& keep_going);
  void take_back(int64_t length);
  bool make_room(int64_t n_tokens);

  const Model* model_;
  SessionOptions options_;
  bool keeps_opening_;
  std::optional<Session> session_;
  Sampler sampler_;
  std::optional<ChatFormat> format_;
  std::string system_;
  std::deque<Turn> turns_;
  std::deque<int64_t> begins_;  // (turns) position at which each comes into view
  size_t forgotten_turns_ = 0;
};

}  // namespace vga
