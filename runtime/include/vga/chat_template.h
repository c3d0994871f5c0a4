#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vga/tokenizer.h"

namespace vga {

/// How a chat model was trained to see turns. Templates are Jinja programs in general; we run none
/// of them but know these by their markers. Llama 3.1 and later say two dates before the system
/// prompt. Mistral's differ in little but spaces: those of its first models, then of the versions
/// of its tokenizers.
enum class ChatFormat {
  chatml,
  llama2,
  llama3,
  llama3_1,
  zephyr,
  mistral,
  mistral_v1,
  mistral_v3,
  mistral_v3_tekken,
  mistral_v7,
  mistral_v7_tekken,
};

std::string_view name(ChatFormat format);
std::optional<ChatFormat> chat_format_from_name(std::string_view name);
/// "chatml, llama2, ...", for help and messages.
std::string chat_format_names();

/// The format that a `tokenizer.chat_template` asks for; it may also be a plain name. An Error that
/// lists the names if it is none of them; `where` names the file.
ChatFormat recognise_chat_template(std::string_view jinja, std::string_view where);

/// What a template of `format` says as the system prompt of a conversation that has none, if its
/// text stands there in one piece; else empty.
std::string own_system_prompt(std::string_view jinja, ChatFormat format);

/// How a vocabulary spells the tokens around a whole text, which some formats put around turns.
struct TextEnds {
  std::string_view bos = "<s>";
  std::string_view eos = "</s>";
};
/// Views of the tokenizer; the defaults where it has no such token.
TextEnds text_ends(const Tokenizer& tokenizer);

/// The marker of `format` that should be one control token but is none in this vocabulary, so that
/// the model was not trained on the format; empty if there is none. Llama 2, Zephyr and Mistral
/// have models that saw their markers spelled out.
std::string_view missing_marker(ChatFormat format, const Tokenizer& tokenizer);

/// What to feed for one turn of the user, up to where the answer begins; Tokenizer::encode() takes
/// it whole. Markers are to be parsed, what people wrote never is. Formats that put the system
/// prompt into the user's turn have it in the first one, where a cache can keep it. `system` (empty
/// for none) is only said on the `first` turn, before which the caller feeds bos() if adds_bos().
std::vector<Tokenizer::Part> render_turn(ChatFormat format, const TextEnds& ends, bool first,
                                         std::string_view system, std::string_view user);

/// What to feed behind an answer before the next turn. Begins with the token that ends an answer,
/// so a caller that stops at is_end() does not feed that one itself.
Tokenizer::Part render_end(ChatFormat format, const TextEnds& ends);

}  // namespace vga
