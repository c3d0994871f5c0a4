#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "chat_template.h"
#include "vga.h"

namespace vga {

/// One exchange.
struct Turn {
  std::string user;
  std::string answer;
};

/// A chat: turns of a user and a model in one session. With a chat format each turn is wrapped in
/// the format's markers; without one the model plainly continues the growing text, which is what a
/// storyteller does.
class Conversation {
 public:
  Conversation(const Model& model, const SessionOptions& session, const SamplerOptions& sampler,
               std::optional<ChatFormat> format);

  struct Answer {
    std::string text;
    size_t prompt_tokens = 0;
    size_t tokens = 0;
    double prefill_seconds = 0;
    double decode_seconds = 0;
    bool context_full = false;  // the answer was cut because the context is full
  };
  /// Feeds `user` and generates until the model ends its turn, `keep_going` returns false, or
  /// max_tokens are out. `on_text` gets the answer piece by piece, whole characters only.
  /// What was generated stays in the conversation however it ended.
  /// Throws ContextFull before anything is changed if `user` does not fit.
  Answer ask(const std::string& user, size_t max_tokens,
             const std::function<void(std::string_view)>& on_text,
             const std::function<bool()>& keep_going);

  /// Forgets all turns; the system prompt stays.
  void clear();
  /// Sets the system prompt and forgets all turns. An Error if the format has no place for one.
  void set_system(const std::string& system);
  /// Replaces the conversation by a saved one. Throws ContextFull if it does not fit; then the
  /// conversation is empty.
  void replay(const std::string& system, const std::vector<Turn>& turns);

  const std::string& system() const { return system_; }
  const std::vector<Turn>& turns() const { return turns_; }
  const Session& session() const { return session_; }
  std::optional<ChatFormat> format() const { return format_; }

 private:
  std::vector<Token> render(const std::string& user) const;

  const Model* model_;
  Session session_;
  Sampler sampler_;
  std::optional<ChatFormat> format_;
  std::string system_;
  std::vector<Turn> turns_;
};

}  // namespace vga
