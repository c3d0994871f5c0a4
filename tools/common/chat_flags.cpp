#include "common/chat_flags.h"

#include <filesystem>

#include "base/file.h"
#include "vga/error.h"

namespace vga {

ChatTemplate named_chat_template(const std::string& asked) {
  if (auto named = ChatTemplate::named(asked)) return std::move(*named);
  std::error_code error;
  if (!std::filesystem::is_regular_file(asked, error)) {
    throw Error("--chat-template", "wanted none, a file, or one of " + ChatTemplate::names() +
                                       "; found '" + asked + "'");
  }
  return {read_text(asked), asked};
}

ChatTemplate chat_template_in(std::string_view jinja, const std::string& file) {
  try {
    return {jinja, file + ": key 'tokenizer.chat_template'"};
  } catch (const Error& error) {
    throw Error(std::string(error.what()) +
                "; --chat-template takes another: " + ChatTemplate::names());
  }
}

}  // namespace vga
