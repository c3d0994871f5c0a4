#include "chat/lexer.h"

#include <algorithm>
#include <array>
#include <optional>

#include "chat/fault.h"
#include "chat/marked_text.h"

namespace vga::jinja {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool begins_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Lexeme> run() {
    while (at_ < source_.size()) {
      const size_t tag = next_tag();
      outside(tag);
      if (at_ == source_.size()) break;
      if (source_[at_ + 1] == '#') {
        skip_comment();
      } else if (source_[at_ + 1] == '{') {
        inside(Lexeme::output_begin, Lexeme::output_end, "}}");
      } else if (!raw_block()) {
        inside(Lexeme::block_begin, Lexeme::block_end, "%}");
      }
    }
    add(Lexeme::end, {});
    return std::move(lexemes_);
  }

 private:
  void add(Lexeme::Kind kind, std::string_view text) { lexemes_.push_back({kind, text, line_}); }

  void move_to(size_t at) {
    line_ += static_cast<size_t>(std::ranges::count(source_.substr(at_, at - at_), '\n'));
    at_ = at;
  }

  size_t next_tag() const {
    for (size_t at = at_; (at = source_.find('{', at)) != std::string_view::npos; ++at) {
      const char kind = at + 1 < source_.size() ? source_[at + 1] : ' ';
      if (kind == '{' || kind == '%' || kind == '#') return at;
    }
    return source_.size();
  }

  char sign_behind(size_t tag) const { return tag + 2 < source_.size() ? source_[tag + 2] : ' '; }

  /// Text up to the tag, without the spaces that the tag takes along.
  void outside(size_t tag) {
    std::string_view text = source_.substr(at_, tag - at_);
    if (tag < source_.size()) text = before_tag(text, tag);
    if (!text.empty()) add(Lexeme::plain, text);
    move_to(tag);
  }

  std::string_view before_tag(std::string_view text, size_t tag) const {
    const char sign = sign_behind(tag);
    if (sign == '-') return text.substr(0, strip_spaces(text, false, true).end);
    if (sign == '+' || source_[tag + 1] == '{') return text;
    const size_t line = text.rfind('\n') + 1;
    const Range rest = strip_spaces(text.substr(line));
    const bool at_line_begin = line > 0 || starts_line_;
    return at_line_begin && rest.begin == rest.end ? text.substr(0, line) : text;
  }

  /// Behind a tag's end: what it takes along.
  void leave(size_t end, bool strips, bool takes_newline) {
    size_t to = end;
    if (strips) {
      to += strip_spaces(source_.substr(end), true, false).begin;
    } else if (takes_newline && end < source_.size() && source_[end] == '\n') {
      ++to;
    }
    move_to(to);
    starts_line_ = to > 0 && source_[to - 1] == '\n';
  }

  void skip_comment() {
    const size_t end = source_.find("#}", at_ + 2);
    if (end == std::string_view::npos) throw Fault("a comment has no end", line_);
    leave(end + 2, source_[end - 1] == '-' && end > at_ + 2, source_[end - 1] != '+');
  }

  /// {% raw %} ... {% endraw %}; false if there is none here.
  bool raw_block() {
    const auto begin = raw_tag(at_, "raw");
    if (!begin) return false;
    leave(begin->end, begin->strips, false);
    for (size_t at = at_; (at = source_.find("{%", at)) != std::string_view::npos; ++at) {
      const auto end = raw_tag(at, "endraw");
      if (!end) continue;
      outside(at);
      leave(end->end, end->strips, end->takes_newline);
      return true;
    }
    throw Fault("'raw' has no end", line_);
  }

  struct RawTag {
    size_t end;
    bool strips;
    bool takes_newline;
  };
  std::optional<RawTag> raw_tag(size_t tag, std::string_view word) const {
    size_t at = tag + 2;
    if (const char sign = sign_behind(tag); sign == '-' || sign == '+') ++at;
    at += strip_spaces(source_.substr(at), true, false).begin;
    if (!source_.substr(at).starts_with(word)) return std::nullopt;
    at += word.size();
    at += strip_spaces(source_.substr(at), true, false).begin;
    const bool strips = source_.substr(at).starts_with('-');
    const bool keeps = source_.substr(at).starts_with('+');
    if (strips || keeps) ++at;
    if (!source_.substr(at).starts_with("%}")) return std::nullopt;
    return RawTag{at + 2, strips, !keeps};
  }

  /// The lexemes between a tag's braces.
  void inside(Lexeme::Kind begin, Lexeme::Kind end, std::string_view end_sign) {
    const size_t begin_line = line_;
    add(begin, source_.substr(at_, 2));
    const char sign = sign_behind(at_);
    move_to(at_ + (sign == '-' || sign == '+' ? 3 : 2));
    std::string open;  // brackets
    while (true) {
      move_to(at_ + strip_spaces(source_.substr(at_), true, false).begin);
      const std::string_view rest = source_.substr(at_);
      if (rest.empty()) throw Fault("a tag has no end", begin_line);
      if (open.empty()) {
        const bool strips = rest.starts_with('-') && rest.substr(1).starts_with(end_sign);
        const bool keeps = end == Lexeme::block_end && rest.starts_with('+') &&
                           rest.substr(1).starts_with(end_sign);
        if (strips || keeps || rest.starts_with(end_sign)) {
          add(end, end_sign);
          leave(at_ + (strips || keeps ? 3 : 2), strips, !keeps && end == Lexeme::block_end);
          return;
        }
      }
      lexeme(rest, open);
    }
  }

  void lexeme(std::string_view rest, std::string& open) {
    const char c = rest[0];
    if (c == '"' || c == '\'') {
      string(rest);
    } else if (is_digit(c)) {
      number(rest);
    } else if (begins_name(c)) {
      size_t n = 1;
      while (n < rest.size() && (begins_name(rest[n]) || is_digit(rest[n]))) ++n;
      take(Lexeme::name, rest.substr(0, n));
    } else {
      operation(rest, open);
    }
  }

  void take(Lexeme::Kind kind, std::string_view text) {
    add(kind, text);
    move_to(at_ + text.size());
  }

  void string(std::string_view rest) {
    size_t end = 1;
    while (end < rest.size() && rest[end] != rest[0]) end += rest[end] == '\\' ? 2 : 1;
    if (end >= rest.size()) throw Fault("a string has no end", line_);
    take(Lexeme::string, rest.substr(0, end + 1));
  }

  void number(std::string_view rest) {
    const auto digits = [&](size_t at) {
      while (at < rest.size() && (is_digit(rest[at]) || rest[at] == '_')) ++at;
      return at;
    };
    size_t n = digits(0);
    bool is_real = false;
    if (n + 1 < rest.size() && rest[n] == '.' && is_digit(rest[n + 1])) {
      n = digits(n + 1);
      is_real = true;
    }
    if (n < rest.size() && (rest[n] == 'e' || rest[n] == 'E')) {
      const size_t sign = n + 1 < rest.size() && (rest[n + 1] == '+' || rest[n + 1] == '-') ? 1 : 0;
      if (n + 1 + sign < rest.size() && is_digit(rest[n + 1 + sign])) {
        n = digits(n + 1 + sign);
        is_real = true;
      }
    }
    if (n < rest.size() && begins_name(rest[n])) throw Fault("a number that is none", line_);
    take(is_real ? Lexeme::real : Lexeme::integer, rest.substr(0, n));
  }

  void operation(std::string_view rest, std::string& open) {
    constexpr std::array<std::string_view, 26> signs = {
        "==", "!=", "<=", ">=", "//", "**", "+", "-", "*", "/", "%", "~", "<",
        ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", ",", ":", ".", "|", ";"};
    const auto* sign = std::ranges::find_if(signs, [&](auto s) { return rest.starts_with(s); });
    if (sign == signs.end()) throw Fault("a character that has no meaning in a tag", line_);
    const char c = (*sign)[0];
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) {
        throw Fault(std::string("'") + c + "' closes nothing", line_);
      }
      open.pop_back();
    }
    take(Lexeme::sign, rest.substr(0, sign->size()));
  }

  std::string_view source_;
  size_t at_ = 0;
  size_t line_ = 1;
  bool starts_line_ = true;  // the last tag ended with a line
  std::vector<Lexeme> lexemes_;
};

}  // namespace

std::vector<Lexeme> lex(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace vga::jinja
