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

  /// The next message without its final line break; nullopt at the end of the input (Ctrl-D) or
  /// after SIGTERM or Ctrl-C on an empty line. Ctrl-C on a line with text drops the message and
  /// asks again.
  std::optional<std::string> read(const std::string& prompt);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vga
