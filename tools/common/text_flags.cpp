#include "common/text_flags.h"

#include <iostream>

#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "common/terminal.h"
#include "vga/error.h"

namespace vga {
namespace {

/// Whether somebody may have given a text there: a pipe, a socket, or a file not read to its end.
bool stdin_is_given() {
  struct stat status {};
  if (::fstat(STDIN_FILENO, &status) != 0) return false;
  if (S_ISREG(status.st_mode)) return ::lseek(STDIN_FILENO, 0, SEEK_CUR) < status.st_size;
  return S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode);
}

}  // namespace

void TextFlags::add_to(CLI::App& app, const std::string& what) {
  auto* from_text = app.add_option("-p,--prompt", text, what)->type_name("TEXT");
  app.add_option("-f,--file", file, what + ", from a file; - is stdin")
      ->type_name("FILE")
      ->excludes(from_text);
}

std::string TextFlags::read() const {
  if (text) {
    if (stdin_is_given()) std::cerr << "note: the text is that of -p, stdin is not read\n";
    return *text;
  }
  if (!file.empty() && file != "-") return read_text_file(file);
  if (file.empty() && is_terminal(STDIN_FILENO)) {
    throw Error("no text: give -p TEXT, -f FILE, or pipe it in");
  }
  std::string piped = read_stdin();
  skip_byte_order_mark(piped, "stdin");
  return piped;
}

std::string read_text_file(const std::string& file) {
  std::string text = read_text(file);
  skip_byte_order_mark(text, file);
  return text;
}

void skip_byte_order_mark(std::string& text, std::string_view where) {
  using namespace std::string_view_literals;
  if (const size_t mark = text.size() - without_byte_order_mark(text).size(); mark > 0) {
    text.erase(0, mark);
    std::cerr << "note: " << printable(where) << ": its byte order mark is not read\n";
    return;
  }
  // That of UTF-32, little end first, begins like that of UTF-16.
  for (const auto& [mark, name] :
       {std::pair("\xFF\xFE\0\0"sv, "UTF-32"), std::pair("\0\0\xFE\xFF"sv, "UTF-32"),
        std::pair("\xFF\xFE"sv, "UTF-16"), std::pair("\xFE\xFF"sv, "UTF-16")}) {
    if (text.starts_with(mark)) {
      throw Error(where, std::string("wanted UTF-8, found ") + name + "; iconv -f " + name +
                             " -t UTF-8 converts it");
    }
  }
}

}  // namespace vga
