#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vga/tokenizer.h"

namespace vga {

/// One message of a conversation.
struct ChatMessage {
  /// "system", "user", "assistant", "tool" or "developer". Templates write it into their markers,
  /// so no other is taken.
  std::string role;
  std::string content;
};

/// How a vocabulary spells the tokens around a whole text, which templates call bos_token and
/// eos_token.
struct TextEnds {
  std::string_view bos = "";
  std::string_view eos = "";
};
/// Views of the tokenizer; empty where it has no such token.
TextEnds text_ends(const Tokenizer& tokenizer);

/// How a chat model was trained to see a conversation: a program in Jinja, which is run. It can
/// read nothing but the messages, and is stopped where it takes too many steps or makes too much
/// text. Immutable and usable from many threads.
class ChatTemplate {
 public:
  /// A template's text; `where` names the file or key in messages. An Error with the line and the
  /// construct's name if it is no template or uses what is not known here.
  ChatTemplate(std::string_view jinja, std::string_view where);
  /// A format that models have in common, by its name; nullopt if there is none of that name.
  static std::optional<ChatTemplate> named(std::string_view name);
  /// "chatml, llama2, ...", for help and messages.
  static std::string names();

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// Of a named() one; else empty.
  std::string_view name() const;
  /// The marker of a named() one that should be one control token but is none in this vocabulary,
  /// so that the model was not trained on the format; empty if there is none, or for formats that
  /// models saw spelled out.
  std::string_view missing_marker(const Tokenizer& tokenizer) const;

  struct Options {
    TextEnds ends = {};
    bool answer_follows = true;  // ends where the model's answer begins
    std::time_t now = 0;         // for templates that say the date
  };
  /// The conversation as the model reads it. Markers are to be parsed; what came from a message's
  /// content never is, whatever the template does to it. A template that takes no system message
  /// gets it in front of the first user's words. An Error if it refuses the conversation.
  std::vector<Tokenizer::Part> render(std::span<const ChatMessage> messages,
                                      const Options& options) const;
  /// The same as tokens, begun with bos() if the tokenizer adds_bos() and the template does not say
  /// it by itself.
  std::vector<Token> encode(std::span<const ChatMessage> messages, const Tokenizer& tokenizer,
                            std::time_t now, bool answer_follows = true) const;
  /// What it says as the system prompt of a conversation that has none; empty if it says none, or
  /// if that cannot be said by a system message as well.
  std::string own_system_prompt() const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace vga
