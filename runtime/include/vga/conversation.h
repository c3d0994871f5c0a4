#pragma once

#include <ctime>
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

/// A chat: turns of a user and a model in one session. With a chat template the whole conversation
/// is put through it for each message, and the session reads what of it is new: a template may
/// leave out of an old answer what it has in a new one. Without one the model plainly continues the
/// growing text, which is what a storyteller does.
///
/// If the session has a window, a chat goes on for ever. With a template whole turns leave the
/// model's view, oldest first, as soon as the next token would push a part of them out: what it
/// sees is always a conversation as the template has it, the opening (everything before the first
/// user's words: <s>, system prompt, marker) followed by a user's words. A turn that fills the
/// window by itself ends there. Without a template the window slides token by token.
class Conversation {
 public:
  /// `keeps_opening`: with a window and a template, session.keep is not used; what is kept is the
  /// opening, however long the system prompt makes it. The system prompt is the template's own.
  Conversation(const Model& model, const SessionOptions& session, const SamplerOptions& sampler,
               std::optional<ChatTemplate> chat_template, bool keeps_opening = true);

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
  /// end is taken back; without a template, where a window has slid too far for that, all is
  /// forgotten.
  /// Throws ContextFull before anything is changed if `user` does not fit, not even alone into the
  /// window.
  Answer ask(const std::string& user, size_t max_tokens,
             const std::function<void(std::string_view)>& on_text,
             const std::function<bool()>& keep_going);

  /// Forgets all turns; the system prompt stays.
  void clear();
  /// Sets the system prompt, "" for none, and forgets all turns. An Error without a template, or if
  /// it leaves no room in the window; the conversation stays as it was then.
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
  /// Null without one.
  const ChatTemplate* chat_template() const { return chat_ ? &*chat_ : nullptr; }
  /// Whether a model begins its answers inside of a thought, as the template opened one for it.
  bool begins_with_thought() const;

 private:
  /// What is to be read before an answer. Positions are those of the session.
  struct Prompt {
    std::vector<Token> tokens;  // the whole view, or what continues a text
    size_t known = 0;           // of them the session has
    size_t begin = 0;           // where the new turn comes into view
    size_t words = 0;           // where the user's words begin
    int64_t position = 0;       // of tokens[0], if the session had that; may be negative
  };

  bool by_turns() const { return chat_ && session_->slides(); }
  std::vector<ChatMessage> messages(const std::string& system, const std::deque<Turn>& turns,
                                    const std::string& user) const;
  std::vector<Token> encode(std::span<const ChatMessage> messages) const;
  size_t words_begin(std::span<const Token> tokens, std::vector<ChatMessage> messages,
                     size_t user) const;
  Prompt continuation(const std::string& user) const;
  Prompt prompt_for(const std::string& user) const;
  void rewind(Prompt& prompt, const std::string& user);
  void start_over(const std::string& system);
  Prompt begin_turn(const std::string& user, const std::function<bool()>& keep_going);
  bool read(std::span<const Token> tokens, const std::function<bool()>& keep_going);
  bool read_answer(const std::string& text, const std::function<bool()>& keep_going);
  int64_t go_back(int64_t length);
  void take_back(int64_t length);
  bool make_room(int64_t n_tokens);

  const Model* model_;
  SessionOptions options_;
  bool keeps_opening_;
  std::optional<Session> session_;
  Sampler sampler_;
  std::optional<ChatTemplate> chat_;
  std::time_t start_;       // what a template says as the date, from the first turn to the last
  std::string own_system_;  // what the template says by itself
  std::string system_;
  std::deque<Turn> turns_;
  std::deque<int64_t> begins_;  // (turns) position at which each comes into view
  size_t forgotten_turns_ = 0;
  // With a template: the tokens of the session from the first turn in view, or from the beginning
  // if none was forgotten.
  std::deque<Token> record_;
  int64_t record_begin_ = 0;
  // Where a session that cannot go back can: before the last turn, and shortly before its answer.
  std::vector<Snapshot> snapshots_;
};

}  // namespace vga
