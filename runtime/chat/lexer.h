#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vga::jinja {

struct Lexeme {
  enum Kind {
    plain,         // text outside of braces
    output_begin,  // {{
    output_end,
    block_begin,  // {%
    block_end,
    name,
    string,  // text with its quotes
    integer,
    real,
    sign,  // operators and punctuation
    end,
  };
  Kind kind;
  std::string_view text;
  size_t line;  // from 1
};

/// A template cut into lexemes, spaces around its tags dropped as transformers asks Jinja to:
/// a tag takes the line break behind it and the spaces between the line's beginning and it along.
/// Views of `source`, whose line breaks are \n. A Fault if there is none such.
std::vector<Lexeme> lex(std::string_view source);

}  // namespace vga::jinja
