#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace vga {

/// Reads what a person types, or the lines of a script when stdin is no terminal.
///
/// On a terminal: libedit's editing keys, history kept in a file, and messages of several lines: a
/// line that ends in a backslash goes on, """ opens and closes a block, a paste stays one message.
/// In a script: one message a line (the same continuation rules), no prompt, no echo.
class LineEditor {
 public:
  /// An empty `history_file` keeps none.
  explicit LineEditor(std::filesystem::path history_file);
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;
  ~LineEditor();

  struct Message {
    std::string text;
    bool is_block = false;  // it stood between """, so it is no command
  };

  /// The next message without its final line break; nullopt at the end of the input (Ctrl-D), after
  /// SIGTERM, or when Ctrl-C comes twice with nothing typed. Ctrl-C on a message with text drops it
  /// and asks again. An Error if a script is no UTF-8 but UTF-16 or UTF-32.
  std::optional<Message> read(const std::string& prompt);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vga
