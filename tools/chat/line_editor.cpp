#include "chat/line_editor.h"

#include <cerrno>
#include <clocale>
#include <cwchar>
#include <iostream>

#include <histedit.h>
#include <poll.h>
#include <unistd.h>

#include "common/terminal.h"
#include "common/text_flags.h"

namespace vga {
namespace {

constexpr std::string_view block_mark = "\"\"\"";
constexpr int history_length = 1000;

/// Waits for input; false if it was interrupted meanwhile. A signal may come just before it waits,
/// or wake another thread, so it looks every now and then.
bool wait_for_input() {
  constexpr int patience_ms = 50;
  pollfd input{STDIN_FILENO, POLLIN, 0};
  while (!interrupted()) {
    const int ready = ::poll(&input, 1, patience_ms);
    if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
  }
  return false;
}

/// Reads one character; 0 is the end of the input, or an interrupt.
int read_character(EditLine*, wchar_t* character) {
  std::mbstate_t state{};
  while (wait_for_input()) {
    char byte = 0;
    const ssize_t n = ::read(STDIN_FILENO, &byte, 1);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return 0;
    const size_t used = std::mbrtowc(character, &byte, 1, &state);
    if (used == static_cast<size_t>(-2)) continue;  // a character of several bytes has begun
    if (used != static_cast<size_t>(-1)) return 1;
    state = {};
  }
  return 0;
}

/// Whether more input lies ready: after a line break that means a paste, people are slower.
bool more_is_waiting() {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  return ::poll(&input, 1, 20) == 1 && (input.revents & POLLIN) != 0;
}

}  // namespace

struct LineEditor::Impl {
  enum class Line { text, end, interrupted };

  /// One line without its line break.
  Line read_line(const std::string& line_prompt, std::string& line) {
    if (editor == nullptr) {
      if (!std::getline(std::cin, line)) return Line::end;
      if (line.ends_with('\r')) line.pop_back();
      if (is_first) skip_byte_order_mark(line, "stdin");
      is_first = false;
      return Line::text;
    }
    prompt = line_prompt;
    el_resize(editor);
    int length = 0;
    const char* typed = el_gets(editor, &length);
    if (typed == nullptr || length <= 0) {
      std::cout << std::endl;
      has_text = el_line(editor)->lastchar != el_line(editor)->buffer;
      const bool by_hand = interrupted() && !terminated();
      clear_interrupt();
      return by_hand ? Line::interrupted : Line::end;
    }
    line.assign(typed, static_cast<size_t>(length));
    if (line.ends_with('\n')) line.pop_back();
    return Line::text;
  }

  /// A whole message: lines joined by the rules of the header.
  Line read_message(const std::string& first_prompt, Message& message) {
    std::string line;
    Line got = read_line(first_prompt, line);
    if (got != Line::text) return got;
    message.is_block = line.starts_with(block_mark);
    std::string& text = message.text;
    text = message.is_block ? line.substr(block_mark.size()) : line;
    while (true) {
      if (message.is_block && text.ends_with(block_mark)) {
        text.resize(text.size() - block_mark.size());
        return Line::text;
      }
      const bool continued = !message.is_block && text.ends_with('\\');
      if (continued) text.pop_back();
      if (!message.is_block && !continued && !(editor != nullptr && more_is_waiting()))
        return Line::text;
      got = read_line("… ", line);
      has_text = true;  // that of the lines before
      if (got != Line::text) return got == Line::end && editor == nullptr ? Line::text : got;
      if (!text.empty()) text += '\n';
      text += line;
    }
  }

  bool is_first = true;   // line of a script
  bool has_text = false;  // what was interrupted
  std::filesystem::path history_file;
  EditLine* editor = nullptr;  // null in a script
  History* history = nullptr;
  std::string prompt;
};

LineEditor::LineEditor(std::filesystem::path history_file) : impl_(std::make_unique<Impl>()) {
  if (!is_terminal(STDIN_FILENO) || !is_terminal(STDOUT_FILENO)) return;
  // libedit measures characters by the locale; ours are UTF-8 whatever the system says.
  if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) {
    std::setlocale(LC_CTYPE, "C.UTF-8");
  }
  Impl& impl = *impl_;
  impl.history_file = std::move(history_file);
  impl.editor = el_init("vga-chat", stdin, stdout, stderr);
  el_set(impl.editor, EL_CLIENTDATA, &impl);
  el_set(
      impl.editor, EL_PROMPT, +[](EditLine* editor) {
        Impl* self = nullptr;
        el_get(editor, EL_CLIENTDATA, &self);
        return self->prompt.data();
      });
  el_set(impl.editor, EL_EDITOR, "emacs");
  el_wset(impl.editor, EL_GETCFN, read_character);
  el_set(impl.editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  el_set(impl.editor, EL_BIND, "\\e[3~", "ed-delete-next-char", nullptr);

  impl.history = history_init();
  HistEvent event;
  history(impl.history, &event, H_SETSIZE, history_length);
  history(impl.history, &event, H_SETUNIQUE, 1);
  el_set(impl.editor, EL_HIST, history, impl.history);
  if (!impl.history_file.empty()) {
    history(impl.history, &event, H_LOAD, impl.history_file.c_str());
  }
}

LineEditor::~LineEditor() {
  if (impl_->editor == nullptr) return;
  HistEvent event;
  if (!impl_->history_file.empty()) {
    history(impl_->history, &event, H_SAVE, impl_->history_file.c_str());
  }
  history_end(impl_->history);
  el_end(impl_->editor);
}

std::optional<LineEditor::Message> LineEditor::read(const std::string& prompt) {
  bool asked = false;
  while (true) {
    Message message;
    switch (impl_->read_message(prompt, message)) {
      case Impl::Line::end:
        return std::nullopt;
      case Impl::Line::interrupted:
        if (asked && !impl_->has_text) return std::nullopt;
        asked = !impl_->has_text;
        if (asked) std::cerr << "Ctrl-C once more leaves" << std::endl;
        continue;
      case Impl::Line::text:
        break;
    }
    if (impl_->editor != nullptr && !message.text.empty()) {
      HistEvent event;
      history(impl_->history, &event, H_ENTER, message.text.c_str());
    }
    return message;
  }
}

}  // namespace vga
