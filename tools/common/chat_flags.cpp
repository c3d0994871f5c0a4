#include "common/chat_flags.h"

#include <filesystem>

#include "common/text_flags.h"
#include "vga/error.h"

namespace vga {

ChatTemplate named_chat_template(const std::string& asked) {
  if (auto named = ChatTemplate::named(asked)) return std::move(*named);
  std::error_code error;
  if (!std::filesystem::is_regular_file(asked, error)) {
    throw Error("--chat-template", "wanted none, a file, or one of " + ChatTemplate::names() +
                                       "; found '" + asked + "'");
  }
  return {read_text_file(asked), asked};
}

ChatTemplate chat_template_in(std::string_view jinja, const std::string& file) {
  try {
    return {jinja, file + ": key 'tokenizer.chat_template'"};
  } catch (const Error& error) {
    throw Error(std::string(error.what()) +
                "; --chat-template takes another: " + ChatTemplate::names());
  }
}

std::optional<ChatTemplate> choose_chat_template(const Model& model,
                                                 const std::optional<std::string>& asked) {
  if (asked == "none") return std::nullopt;
  if (asked) return named_chat_template(*asked);
  if (model.chat_template().empty()) return std::nullopt;
  return chat_template_in(model.chat_template(), model.file_name());
}

}  // namespace vga
