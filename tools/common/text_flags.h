#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>

/// Texts that programs are given.
namespace vga {

/// Text from -p, else from the file -f ("-" is stdin), else from stdin if it is not a terminal.
struct TextFlags {
  std::optional<std::string> text;  // may be empty
  std::string file;

  void add_to(CLI::App& app, const std::string& what);
  /// An Error if there is none. Says on stderr if -p is given and stdin has a text, too.
  std::string read() const;
};

/// A file of UTF-8 without its byte order mark, as skip_byte_order_mark() has it.
std::string read_text_file(const std::string& file);

/// Takes the mark of UTF-8 off the beginning, with a note on stderr; an Error naming `where` for
/// that of UTF-16 or UTF-32.
void skip_byte_order_mark(std::string& text, std::string_view where);

}  // namespace vga
