#include "chat_template.h"

#include <array>

#include "error.h"

namespace vga {
namespace {

/// A turn is `user` + words + `answer`, then the model speaks, then `end`. A system prompt stands
/// between `system` and `system_end`, before the first `user`, or where `system_inside` behind it.
struct Markers {
  std::string_view name;
  std::string_view system;
  std::string_view system_end;
  bool system_inside;
  std::string_view user;
  std::string_view answer;
  std::string_view end;
  std::string_view next;  // before every turn but the first
};

// In the order of ChatFormat.
constexpr std::array<Markers, 5> formats = {{
    {"chatml", "<|im_start|>system\n", "<|im_end|>\n", false, "<|im_start|>user\n",
     "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n", ""},
    // Each exchange is a sequence of its own between <s> and </s>.
    {"llama2", "<<SYS>>\n", "\n<</SYS>>\n\n", true, "[INST] ", " [/INST]", "</s>", "<s>"},
    {"llama3", "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>", false,
     "<|start_header_id|>user<|end_header_id|>\n\n",
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", ""},
    {"zephyr", "<|system|>\n", "</s>\n", false, "<|user|>\n", "</s>\n<|assistant|>\n", "</s>\n",
     ""},
    // Has no place for a system prompt; Mistral puts it in front of the first words.
    {"mistral", "", "\n\n", true, "[INST] ", " [/INST]", "</s>", ""},
}};

const Markers& markers(ChatFormat format) {
  return formats[static_cast<size_t>(format)];
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
  std::string names;
  for (const Markers& format : formats) {
    if (!names.empty()) names += ", ";
    names += format.name;
  }
  return names;
}

ChatFormat recognise_chat_template(std::string_view jinja, std::string_view where) {
  if (const auto format = chat_format_from_name(jinja)) return *format;
  const auto has = [&](std::string_view marker) {
    return jinja.find(marker) != std::string_view::npos;
  };
  // Phi-4 and SmolVLM borrow <|im_start|> for formats of their own, later Mistrals [INST].
  if (has("<|im_start|>") && !has("<|im_sep|>") && !has("<end_of_utterance>")) {
    return ChatFormat::chatml;
  }
  if (has("<|start_header_id|>") && has("<|end_header_id|>")) return ChatFormat::llama3;
  if (has("[INST]") && has("<<SYS>>")) return ChatFormat::llama2;
  if (has("[INST]") && !has("[AVAILABLE_TOOLS]") && !has("[SYSTEM_PROMPT]")) {
    return ChatFormat::mistral;
  }
  // Phi-3 ends its turns with <|end|>, Falcon 3 and GLM with nothing.
  if (has("<|user|>") && has("<|assistant|>") && has("eos_token") && !has("<|end|>")) {
    return ChatFormat::zephyr;
  }
  throw Error(where,
              "key 'tokenizer.chat_template': not a template we know; pass --chat-template "
              "NAME with one of " +
                  chat_format_names());
}

std::vector<Tokenizer::Part> render_turn(ChatFormat format, bool first, std::string_view system,
                                         std::string_view user) {
  const Markers& m = markers(format);
  std::vector<Tokenizer::Part> parts;
  const auto template_text = [&](std::string_view text) {
    if (!text.empty()) parts.push_back({std::string(text), Tokenizer::Special::parse});
  };
  const auto plain_text = [&](std::string_view text) {
    parts.push_back({std::string(text), Tokenizer::Special::as_text});
  };
  const bool says_system = first && !system.empty();
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

Tokenizer::Part render_end(ChatFormat format) {
  return {std::string(markers(format).end), Tokenizer::Special::parse};
}

}  // namespace vga
