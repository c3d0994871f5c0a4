#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/value.h"

namespace vga::jinja {

enum class Operation {
  literal,      // value
  name,         // text
  list,         // parts
  tuple,        // parts
  dict,         // parts: key, value, key, value, ...
  attribute,    // parts[0].text
  item,         // parts[0][parts[1]]
  slice,        // parts[0][parts[1] : parts[2] : parts[3]], None where one is absent
  call,         // parts[0](parts[1], ..., named)
  filter,       // parts[0] | text(parts[1], ..., named)
  test,         // parts[0] is text(parts[1], ..., named)
  negate,       // -parts[0]
  plus,         // +parts[0]
  logical_not,  // not parts[0]
  logical_and,
  logical_or,
  arithmetic,   // parts[0] text parts[1]
  comparison,   // parts[0] names[0] parts[1] names[1] parts[2] ...
  join,         // parts[0] ~ parts[1] ~ ...
  conditional,  // parts[1] if parts[0] else parts[2], which may be absent
};

struct Expression {
  Operation operation = Operation::literal;
  size_t line = 0;
  size_t depth = 1;  // of expressions in it, with itself
  std::string_view text = {};
  Value value = None{};
  std::vector<Expression> parts = {};
  std::vector<std::string_view> names = {};  // of the last parts in a call; operators

  /// Parts that have a name: `f(1, x=2)` has one.
  size_t n_named() const { return operation == Operation::comparison ? 0 : names.size(); }
};

struct Statement;
using Block = std::vector<Statement>;

enum class Action {
  text,        // value
  output,      // expression
  choice,      // if: branches; the last one without a condition is the else
  loop,        // for names in expression if condition: body, else_body
  assign,      // set names, or name.attribute, to the expression
  capture,     // set names[0] to what body writes, through filters
  macro,       // text(names = defaults): body
  filter,      // body's text through filters
  scope,       // with names = expressions, generation: body
  leave_loop,  // break
  next_round,  // continue
};

struct Branch {
  std::optional<Expression> condition;
  Block body;
};

struct Statement {
  Action action = Action::text;
  size_t line = 0;
  MarkedText value = {};
  std::string_view text = {};                 // of a macro: its name
  std::optional<Expression> expression = {};  // of filters: around a literal that stands for body
  std::optional<Expression> condition = {};
  std::vector<std::string_view> names = {};
  std::string_view attribute = {};
  std::vector<Expression> defaults = {};  // of the last names
  Block body = {};
  Block else_body = {};
  std::vector<Branch> branches = {};
};

/// What `{% macro %}` defines.
struct Macro {
  const Statement* statement;
};

/// A template that was read. Owns its source and literals, to which everything in it points.
struct Program {
  std::string source;
  std::deque<MarkedText> literals;
  Block body;
};

}  // namespace vga::jinja
