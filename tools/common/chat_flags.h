#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "vga/chat_template.h"
#include "vga/vga.h"

namespace vga {

/// What --chat-template names: a format, else a file with a template.
ChatTemplate named_chat_template(const std::string& asked);

/// The template that a model's file has; an Error that says what else there is if it cannot be run.
ChatTemplate chat_template_in(std::string_view jinja, const std::string& file);

/// The template asked for ("none": none), else the one that the model's file has, else none.
std::optional<ChatTemplate> choose_chat_template(const Model& model,
                                                 const std::optional<std::string>& asked);

}  // namespace vga
