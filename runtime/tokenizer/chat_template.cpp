#include "vga/chat_template.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "vga/error.h"

namespace vga {
namespace {

/// A turn is `user` + words + `answer`, then the model speaks, then `end`. A system prompt stands
/// between `system` and `system_end`, before the first `user`, or where `system_inside` behind it.
/// <s> and </s> are what templates call bos_token and eos_token.
struct Markers {
  std::string_view name = "";
  std::string_view token = "";  // of the vocabulary, where models never saw it spelled out
  std::string_view system = "";
  std::string_view system_end = "";
  std::string_view user = "";
  std::string_view answer = "";
  std::string_view end = "";
  std::string_view next = "";  // before every turn but the first
  bool system_inside = false;
  bool system_always = false;  // even if there is nothing between its markers
  bool trims = false;          // drops the spaces around what people write
};

constexpr std::string_view llama3_user = "<|start_header_id|>user<|end_header_id|>\n\n";
constexpr std::string_view llama3_answer =
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";

// In the order of ChatFormat.
constexpr std::array<Markers, 11> formats = {{
    {.name = "chatml",
     .token = "<|im_start|>",
     .system = "<|im_start|>system\n",
     .system_end = "<|im_end|>\n",
     .user = "<|im_start|>user\n",
     .answer = "<|im_end|>\n<|im_start|>assistant\n",
     .end = "<|im_end|>\n"},
    // Each exchange is a sequence of its own between <s> and </s>.
    {.name = "llama2",
     .system = "<<SYS>>\n",
     .system_end = "\n<</SYS>>\n\n",
     .user = "[INST] ",
     .answer = " [/INST]",
     .end = "</s>",
     .next = "<s>",
     .system_inside = true,
     .trims = true},
    {.name = "llama3",
     .token = "<|start_header_id|>",
     .system = "<|start_header_id|>system<|end_header_id|>\n\n",
     .system_end = "<|eot_id|>",
     .user = llama3_user,
     .answer = llama3_answer,
     .end = "<|eot_id|>",
     .trims = true},
    // The date is what the templates say where nobody gives them one.
    {.name = "llama3.1",
     .token = "<|start_header_id|>",
     .system = "<|start_header_id|>system<|end_header_id|>\n\n"
               "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
     .system_end = "<|eot_id|>",
     .user = llama3_user,
     .answer = llama3_answer,
     .end = "<|eot_id|>",
     .system_always = true,
     .trims = true},
    {.name = "zephyr",
     .system = "<|system|>\n",
     .system_end = "</s>\n",
     .user = "<|user|>\n",
     .answer = "</s>\n<|assistant|>\n",
     .end = "</s>\n"},
    {.name = "mistral",
     .system_end = "\n\n",
     .user = "[INST] ",
     .answer = " [/INST]",
     .end = "</s>",
     .system_inside = true},
    {.name = "mistral-v1",
     .system_end = "\n\n",
     .user = " [INST] ",
     .answer = " [/INST]",
     .end = "</s>",
     .system_inside = true},
    {.name = "mistral-v3",
     .system_end = "\n\n",
     .user = "[INST] ",
     .answer = "[/INST]",
     .end = "</s>",
     .system_inside = true},
    {.name = "mistral-v3-tekken",
     .system_end = "\n\n",
     .user = "[INST]",
     .answer = "[/INST]",
     .end = "</s>",
     .system_inside = true},
    {.name = "mistral-v7",
     .system = "[SYSTEM_PROMPT] ",
     .system_end = "[/SYSTEM_PROMPT]",
     .user = "[INST] ",
     .answer = "[/INST]",
     .end = "</s>"},
    {.name = "mistral-v7-tekken",
     .system = "[SYSTEM_PROMPT]",
     .system_end = "[/SYSTEM_PROMPT]",
     .user = "[INST]",
     .answer = "[/INST]",
     .end = "</s>"},
}};

const Markers& markers(ChatFormat format) {
  return formats[static_cast<size_t>(format)];
}

/// Mistral's format by the spaces around its markers, which is all that its versions differ in.
std::optional<ChatFormat> mistral_version(std::string_view jinja) {
  const auto has = [&](std::string_view marker) {
    return jinja.find(marker) != std::string_view::npos;
  };
  const bool space_before = has(" [INST] ");
  const bool space_inside = has("[INST] ");
  const bool space_behind = has(" [/INST]");
  if (has("[SYSTEM_PROMPT]")) {
    return space_inside ? ChatFormat::mistral_v7 : ChatFormat::mistral_v7_tekken;
  }
  if (space_behind) {
    if (!space_inside) return std::nullopt;
    return space_before ? ChatFormat::mistral_v1 : ChatFormat::mistral;
  }
  return space_inside ? ChatFormat::mistral_v3 : ChatFormat::mistral_v3_tekken;
}

/// Whether a template ends the user's turns as Zephyr does: Falcon 3 has the same markers but ends
/// the answers alone.
bool ends_user_turns(std::string_view jinja) {
  const size_t user = jinja.find("<|user|>");
  if (user == std::string_view::npos) return false;
  const std::string_view turn = jinja.substr(user, jinja.find("}}", user) - user);
  return turn.find("eos_token") != std::string_view::npos ||
         turn.find("</s>") != std::string_view::npos;
}

/// A marker as a vocabulary spells it.
std::string spelled(std::string_view marker, const TextEnds& ends) {
  std::string text(marker);
  const auto replace = [&](std::string_view mark, std::string_view spelling) {
    const size_t at = text.find(mark);
    if (at == std::string::npos) return false;
    text.replace(at, mark.size(), spelling);
    return true;
  };
  if (!replace("</s>", ends.eos)) replace("<s>", ends.bos);
  return text;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view spaces = " \t\n\v\f\r";
  const size_t begin = std::min(text.find_first_not_of(spaces), text.size());
  return text.substr(begin, text.find_last_not_of(spaces) + 1 - begin);
}

}  // namespace

std::string_view name(ChatFormat format) {
  return markers(format).name;
}

std::optional<ChatFormat> chat_format_from_name(std::string_view name) {
  for (size_t i = 0; i < formats.size(); ++i) {
    if (formats[i].name == name) return static_cast<ChatFormat>(i);
  }
  return std::nullopt;
}

std::string chat_format_names() {
  return names_of(formats);
}

ChatFormat recognise_chat_template(std::string_view jinja, std::string_view where) {
  if (const auto format = chat_format_from_name(jinja)) return *format;
  const auto has = [&](std::string_view marker) {
    return jinja.find(marker) != std::string_view::npos;
  };
  // Phi-4 and SmolVLM borrow <|im_start|> for formats of their own.
  if (has("<|im_start|>") && !has("<|im_sep|>") && !has("<end_of_utterance>")) {
    return ChatFormat::chatml;
  }
  if (has("<|start_header_id|>") && has("<|end_header_id|>")) {
    const bool says_dates = has("Cutting Knowledge Date: December 2023") && has("Today Date: ");
    return says_dates ? ChatFormat::llama3_1 : ChatFormat::llama3;
  }
  if (has("[INST]") && has("<<SYS>>")) return ChatFormat::llama2;
  if (has("[INST]")) {
    if (const auto version = mistral_version(jinja)) return *version;
  }
  // Phi-3 ends its turns with <|end|>.
  if (has("<|assistant|>") && !has("<|end|>") && ends_user_turns(jinja)) return ChatFormat::zephyr;
  throw Error(where,
              "key 'tokenizer.chat_template': not a template we know; pass --chat-template "
              "NAME with one of " +
                  chat_format_names());
}

std::string own_system_prompt(std::string_view jinja, ChatFormat format) {
  // Newlines in a Jinja literal may be spelled out.
  std::string text;
  for (size_t at = 0; at < jinja.size(); ++at) {
    const bool newline = jinja.substr(at).starts_with("\\n");
    text += newline ? '\n' : jinja[at];
    if (newline) ++at;
  }
  const Markers& m = markers(format);
  if (m.system.empty()) return {};
  for (size_t at = 0; (at = text.find(m.system, at)) != std::string::npos; at += m.system.size()) {
    // The whole of one literal: '<|im_start|>system\nYou are...<|im_end|>\n'.
    if (at == 0 || (text[at - 1] != '\'' && text[at - 1] != '"')) continue;
    const size_t begin = at + m.system.size();
    const size_t end = text.find(trimmed(m.system_end), begin);
    const size_t quote = text.find(text[at - 1], begin);
    if (end < quote && end > begin) return text.substr(begin, end - begin);
  }
  return {};
}

TextEnds text_ends(const Tokenizer& tokenizer) {
  TextEnds ends;
  if (tokenizer.bos()) ends.bos = tokenizer.piece(*tokenizer.bos());
  if (tokenizer.eos()) ends.eos = tokenizer.piece(*tokenizer.eos());
  return ends;
}

std::string_view missing_marker(ChatFormat format, const Tokenizer& tokenizer) {
  const std::string_view marker = markers(format).token;
  const auto token = tokenizer.find(marker);
  return token && tokenizer.is_control(*token) ? std::string_view() : marker;
}

std::vector<Tokenizer::Part> render_turn(ChatFormat format, const TextEnds& ends, bool first,
                                         std::string_view system, std::string_view user) {
  const Markers& m = markers(format);
  std::vector<Tokenizer::Part> parts;
  const auto template_text = [&](std::string_view text) {
    if (!text.empty()) parts.push_back({spelled(text, ends), Tokenizer::Special::parse});
  };
  const auto plain_text = [&](std::string_view text) {
    parts.push_back({std::string(m.trims ? trimmed(text) : text), Tokenizer::Special::as_text});
  };
  const bool says_system = first && (m.system_always || !system.empty());
  if (!first) template_text(m.next);
  if (m.system_inside) template_text(m.user);
  if (says_system) {
    template_text(m.system);
    plain_text(system);
    template_text(m.system_end);
  }
  if (!m.system_inside) template_text(m.user);
  plain_text(user);
  template_text(m.answer);
  return parts;
}

Tokenizer::Part render_end(ChatFormat format, const TextEnds& ends) {
  return {spelled(markers(format).end, ends), Tokenizer::Special::parse};
}

}  // namespace vga
