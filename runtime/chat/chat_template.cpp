#include "vga/chat_template.h"

#include <algorithm>
#include <array>
#include <ranges>

#include "base/text.h"
#include "chat/chat_formats.h"
#include "chat/evaluator.h"
#include "chat/parser.h"
#include "vga/error.h"

namespace vga {
namespace {

// A template of a few kilobytes needs some hundred steps for each message. These take about a
// second and, as a step makes at most a few dozen bytes, a few hundred megabytes.
constexpr size_t max_steps = 5'000'000;
constexpr size_t max_size = 4 << 20;  // bytes of a template

constexpr std::array<std::string_view, 5> roles = {"system", "user", "assistant", "tool",
                                                   "developer"};

using jinja::Value;

/// The values that templates are given; transformers gives the same.
std::vector<std::pair<std::string_view, Value>> globals(jinja::Heap& heap,
                                                        std::span<const ChatMessage> messages,
                                                        const ChatTemplate::Options& options) {
  std::vector<Value> list;
  for (const ChatMessage& message : messages) {
    const Value content = heap.text(jinja::MarkedText(message.content, true));
    list.push_back(
        heap.dict({{heap.text("role"), heap.text(message.role)}, {heap.text("content"), content}}));
  }
  return {{"messages", heap.list(std::move(list))},
          {"add_generation_prompt", options.answer_follows},
          {"bos_token", heap.text(options.ends.bos)},
          {"eos_token", heap.text(options.ends.eos)},
          {"tools", jinja::None{}},
          {"documents", jinja::None{}}};
}

/// The system message's words in front of the first user's.
std::vector<ChatMessage> with_system_inside(std::span<const ChatMessage> messages) {
  std::vector<ChatMessage> merged(messages.begin() + 1, messages.end());
  const auto user = std::ranges::find(merged, "user", &ChatMessage::role);
  if (user == merged.end()) return {messages.begin(), messages.end()};
  if (!messages[0].content.empty()) user->content = messages[0].content + "\n\n" + user->content;
  return merged;
}

std::string joined(const std::vector<Tokenizer::Part>& parts) {
  std::string text;
  for (const Tokenizer::Part& part : parts) text += part.text;
  return text;
}

}  // namespace

struct ChatTemplate::Impl {
  std::string where;
  const ChatFormat* format = nullptr;  // of a named one
  std::unique_ptr<const jinja::Program> program;
  bool takes_system = true;

  Impl(std::string_view jinja, std::string_view where_it_is) : where(where_it_is) {
    if (jinja.size() > max_size) {
      throw Error(where, "the chat template has " + human_bytes(jinja.size()) +
                             ", wanted at most " + human_bytes(max_size));
    }
    try {
      program = jinja::parse(jinja);
    } catch (const jinja::Fault& fault) {
      fail(fault);
    }
    takes_system = says_system_message();
  }

  [[noreturn]] void fail(const jinja::Fault& fault) const {
    const std::string line = fault.line > 0 ? ", line " + std::to_string(fault.line) : "";
    throw Error(where, "the chat template" + line + ": " + fault.what());
  }

  jinja::MarkedText run(std::span<const ChatMessage> messages, const Options& options) const {
    jinja::Heap heap(max_steps);
    return jinja::run(*program, heap, globals(heap, messages, options), options.now);
  }

  /// Whether a system message's words come out again; other faults are those of all conversations.
  bool says_system_message() const {
    constexpr std::string_view words = "are-they-said";
    const std::array<ChatMessage, 2> messages = {
        {{"system", std::string(words)}, {"user", "or-not"}}};
    try {
      return run(messages, {}).chars().find(words) != std::string_view::npos;
    } catch (const jinja::Refused&) {
      return false;
    } catch (const jinja::Fault&) {
      return true;
    }
  }
};

TextEnds text_ends(const Tokenizer& tokenizer) {
  TextEnds ends;
  if (tokenizer.bos()) ends.bos = tokenizer.piece(*tokenizer.bos());
  if (tokenizer.eos()) ends.eos = tokenizer.piece(*tokenizer.eos());
  return ends;
}

ChatTemplate::ChatTemplate(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(std::string_view jinja, std::string_view where)
    : impl_(std::make_unique<const Impl>(jinja, where)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

std::optional<ChatTemplate> ChatTemplate::named(std::string_view name) {
  for (const ChatFormat& format : chat_formats()) {
    if (format.name != name) continue;
    auto impl = std::make_unique<Impl>(format.jinja(), format.name);
    impl->format = &format;
    return ChatTemplate(std::move(impl));
  }
  return std::nullopt;
}

std::string ChatTemplate::names() {
  return names_of(chat_formats());
}

std::string_view ChatTemplate::name() const {
  return impl_->format != nullptr ? impl_->format->name : "";
}

std::string_view ChatTemplate::missing_marker(const Tokenizer& tokenizer) const {
  if (impl_->format == nullptr) return {};
  const std::string_view marker = impl_->format->token;
  const auto token = tokenizer.find(marker);
  return token && tokenizer.is_control(*token) ? std::string_view() : marker;
}

std::vector<Tokenizer::Part> ChatTemplate::render(std::span<const ChatMessage> messages,
                                                  const Options& options) const {
  for (const ChatMessage& message : messages) {
    if (std::ranges::find(roles, message.role) != roles.end()) continue;
    throw Error("role",
                "wanted system, user, assistant, tool or developer, found '" + message.role + "'");
  }
  const bool merges = !impl_->takes_system && !messages.empty() && messages[0].role == "system";
  std::vector<Tokenizer::Part> parts;
  try {
    const jinja::MarkedText text =
        merges ? impl_->run(with_system_inside(messages), options) : impl_->run(messages, options);
    size_t begin = 0;
    for (const auto& run : text.runs()) {
      const auto special =
          run.from_message ? Tokenizer::Special::as_text : Tokenizer::Special::parse;
      parts.push_back({std::string(text.chars().substr(begin, run.end - begin)), special});
      begin = run.end;
    }
  } catch (const jinja::Refused& refused) {
    throw Error(impl_->where,
                std::string("the chat template refuses this conversation: ") + refused.what());
  } catch (const jinja::Fault& fault) {
    impl_->fail(fault);
  }
  return parts;
}

std::vector<Token> ChatTemplate::encode(std::span<const ChatMessage> messages,
                                        const Tokenizer& tokenizer, std::time_t now,
                                        bool answer_follows) const {
  const Options options{text_ends(tokenizer), answer_follows, now};
  std::vector<Token> tokens = tokenizer.encode(render(messages, options));
  const auto bos = tokenizer.bos();
  if (tokenizer.adds_bos() && bos && (tokens.empty() || tokens[0] != *bos)) {
    tokens.insert(tokens.begin(), *bos);
  }
  return tokens;
}

std::string ChatTemplate::own_system_prompt() const {
  const ChatMessage user{"user", "a-question"};
  const auto said = [&](const std::string& system) {
    return joined(render(std::array{ChatMessage{"system", system}, user}, {}));
  };
  try {
    const std::string by_itself = joined(render(std::array{user}, {}));
    const std::string with_none = said("");
    if (by_itself.size() <= with_none.size()) return {};
    // What it has more stands between what both begin and what both end with.
    const auto begin = std::ranges::mismatch(with_none, by_itself).in2 - by_itself.begin();
    const std::string prompt =
        by_itself.substr(static_cast<size_t>(begin), by_itself.size() - with_none.size());
    return said(prompt) == by_itself ? prompt : "";
  } catch (const Error&) {
    return {};
  }
}

}  // namespace vga
