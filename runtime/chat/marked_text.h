#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vga::jinja {

/// Text of which every byte remembers whether it came from a message. Whatever a template does to
/// its strings, what people wrote can then be told from the template's own markers.
class MarkedText {
 public:
  /// Bytes up to `end` that came from the same place, behind the run before.
  struct Run {
    size_t end;
    bool from_message;
  };

  MarkedText() = default;
  explicit MarkedText(std::string_view text, bool from_message = false) {
    append(text, from_message);
  }

  std::string_view chars() const { return chars_; }
  size_t size() const { return chars_.size(); }
  bool empty() const { return chars_.empty(); }
  const std::vector<Run>& runs() const { return runs_; }
  /// Whether byte `at` came from a message; at < size().
  bool from_message(size_t at) const;

  void append(std::string_view text, bool from_message);
  void append(const MarkedText& text) { append(text, 0, text.size()); }
  /// Bytes [begin, end) of `text`, which may be this one.
  void append(const MarkedText& text, size_t begin, size_t end);
  MarkedText slice(size_t begin, size_t end) const;

 private:
  std::string chars_;
  std::vector<Run> runs_;
};

/// Offset of every character, and the size behind the last: characters as Python counts them. A
/// byte that begins none is one by itself.
std::vector<size_t> character_offsets(std::string_view text);

/// The code point at text[0], which is not empty; a byte that begins none is U+FFFD.
uint32_t code_point(std::string_view text);

/// What Python's str.isspace() says of a code point.
bool is_space(uint32_t c);
/// [begin, end) of `text` without the characters at its ends for which `drop` is true.
struct Range {
  size_t begin;
  size_t end;
};
Range strip_spaces(std::string_view text, bool left = true, bool right = true);
/// The same with any of the characters of `drop`.
Range strip_characters(std::string_view text, std::string_view drop, bool left, bool right);

enum class Case { upper, lower };
/// All characters in one case, each marked as it was.
MarkedText with_case(const MarkedText& text, Case to);
bool is_letter(uint32_t c);

}  // namespace vga::jinja
