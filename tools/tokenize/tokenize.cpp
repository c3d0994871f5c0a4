/// vga-tokenize: what a model reads of a text.

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "common/chat_flags.h"
#include "common/program.h"
#include "common/text_flags.h"
#include "gguf/gguf.h"
#include "tokenizer/pretokenizer.h"

namespace {

struct Flags {
  std::string file;
  vga::TextFlags text;
  std::string pre;
  bool special = false;
  bool no_bos = false;
  bool ids = false;
  bool chat = false;
  std::string chat_template;
  bool rendered = false;
};

/// The conversation that a JSON text is: [{"role": "user", "content": "..."}, ...].
std::vector<vga::ChatMessage> messages_in(const std::string& text) {
  try {
    std::vector<vga::ChatMessage> messages;
    for (const auto& message : nlohmann::json::parse(text)) {
      messages.push_back({message.at("role"), message.at("content")});
    }
    return messages;
  } catch (const nlohmann::json::exception& error) {
    throw vga::Error(
        "--chat", std::string("wanted a list of messages with role and content: ") + error.what());
  }
}

vga::ChatTemplate chat_template(const Flags& flags, const vga::Gguf& gguf) {
  if (!flags.chat_template.empty()) return vga::named_chat_template(flags.chat_template);
  const auto found = gguf.string("tokenizer.chat_template");
  if (!found) {
    throw vga::Error(flags.file, "has no chat template; --chat-template takes one of " +
                                     vga::ChatTemplate::names());
  }
  return vga::chat_template_in(*found, flags.file);
}

/// An answer follows where none stands at the end.
bool answer_follows(std::span<const vga::ChatMessage> messages) {
  return messages.empty() || messages.back().role != "assistant";
}

/// The text that the template makes of a conversation.
void print_rendered(const vga::ChatTemplate& chat, std::span<const vga::ChatMessage> messages,
                    const vga::Tokenizer& tokenizer) {
  for (const auto& part : chat.render(messages, {.ends = vga::text_ends(tokenizer),
                                                .answer_follows = answer_follows(messages),
                                                .now = std::time(nullptr)})) {
    std::cout << part.text;
  }
}

void print_ids(const std::vector<vga::Token>& tokens) {
  std::string line;
  for (const vga::Token token : tokens) {
    if (!line.empty()) line += ' ';
    line += std::to_string(token);
  }
  std::cout << line << '\n';
}

void print_table(const std::vector<vga::Token>& tokens, const vga::Tokenizer& tokenizer) {
  for (const vga::Token token : tokens) {
    const char* note = tokenizer.is_end(token)       ? "  ends a text"
                       : tokenizer.is_control(token) ? "  control"
                                                     : "";
    std::printf("%8d  '%s'%s\n", token, vga::printable(tokenizer.piece(token)).c_str(), note);
  }
}

int tokenize(const Flags& flags) {
  using Special = vga::Tokenizer::Special;
  const vga::Gguf gguf = vga::Gguf::open(flags.file);
  const auto tokenizer = vga::Tokenizer::from_gguf(gguf, flags.pre);
  const std::string text = flags.text.read();
  std::vector<vga::Token> tokens;
  if (flags.chat) {
    const vga::ChatTemplate chat = chat_template(flags, gguf);
    const auto messages = messages_in(text);
    if (flags.rendered) {
      print_rendered(chat, messages, tokenizer);
      return 0;
    }
    tokens = chat.encode(messages, tokenizer, std::time(nullptr), answer_follows(messages));
  } else {
    const Special special = flags.special ? Special::parse : Special::as_text;
    tokens =
        flags.no_bos ? tokenizer.encode(text, special) : tokenizer.encode_prompt(text, special);
  }
  vga::note_two_bos(tokens, tokenizer);
  if (flags.ids) {
    print_ids(tokens);
  } else {
    print_table(tokens, tokenizer);
    std::cerr << tokens.size() << " tokens, " << text.size() << " bytes\n";
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Show the tokens that a model reads of a text: their ids and pieces, one a line.\n\n"
      "  vga-tokenize -m stories.gguf -p 'Once upon a time'\n"
      "  vga-tokenize -m stories.gguf -p '<s>Once' --special --no-bos\n"
      "  vga-tokenize -m stories.gguf -f story.txt --ids > story.ids\n"
      "  vga-tokenize -m assistant.gguf --chat --rendered \\\n"
      "    -p '[{\"role\": \"user\", \"content\": \"Hello\"}]'\n\n"
      "A piece is spelled as the vocabulary has it: a space is ▁ in SentencePiece's, Ġ in "
      "byte-level\n"
      "BPE, where other characters may look strange, too: each stands for a byte. Every byte of a\n"
      "file counts, the line break at its end too, but a byte order mark does not. Any GGUF file "
      "with\n"
      "a vocabulary will do.",
      "vga-tokenize");
  Flags flags;
  app.add_option("-m,--model", flags.file, "GGUF file with the vocabulary")
      ->required()
      ->type_name("FILE");
  flags.text.add_to(app, "Text to cut into tokens");
  app.add_flag("--ids", flags.ids, "Print the ids alone, on one line");
  app.add_flag("--special", flags.special,
               "Read control tokens such as </s> where the text spells them out");
  app.add_flag("--no-bos", flags.no_bos,
               "Leave out the token that the model wants before a text, if it wants one");
  auto* chat = app.add_flag(
      "--chat", flags.chat,
      "The text is a list of messages in JSON, which the chat template makes the text");
  app.add_option("--chat-template", flags.chat_template,
                 "The template for that: a file, or one of " + vga::ChatTemplate::names() +
                     " (default: the model's)")
      ->needs(chat)
      ->type_name("NAME|FILE");
  app.add_flag("--rendered", flags.rendered, "Print the text that it makes, not its tokens")
      ->needs(chat);
  vga::add_pre_to(app, flags.pre);
  return vga::run_program(app, argc, argv, [&] { return tokenize(flags); });
}
