#include "chat/expression_parser.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/text.h"

namespace vga::jinja {
namespace {

// More than any template has, and far from the end of the stack.
constexpr size_t max_expression_nesting = 100;
constexpr size_t max_expression_depth = 150;

/// The value of `n` digits at `at`; a Fault if there are none such.
uint32_t escape_digits(std::string_view text, size_t at, size_t n, int base, size_t line) {
  const std::string_view digits = text.substr(std::min(at, text.size()), n);
  uint32_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || digits.size() != n || end != digits.data() + n || value > 0x10FFFF) {
    throw Fault("a string has an escape that is none", line);
  }
  return value;
}

/// What stands between a string's quotes, its escapes read as Python's.
std::string unescaped(std::string_view text, size_t line) {
  constexpr std::string_view simple = "n\nr\rt\tb\bf\fv\va\a\\\\''\"\"";
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    const char c = text[++i];  // the lexer saw to it that there is one
    size_t known = 0;
    while (known < simple.size() && simple[known] != c) known += 2;
    if (known < simple.size()) {
      out += simple[known + 1];
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      append_utf8(out, escape_digits(text, i + 1, n, 16, line));
      i += n;
    } else if (c >= '0' && c <= '7') {
      size_t n = 1;
      while (n < 3 && i + n < text.size() && text[i + n] >= '0' && text[i + n] <= '7') ++n;
      append_utf8(out, escape_digits(text, i, n, 8, line));
      i += n - 1;
    } else if (c == 'N') {
      throw Fault("the escape '\\N' of a string is not known here", line);
    } else if (c != '\n') {
      out += '\\';
      out += c;
    }
  }
  return out;
}

std::string without_underscores(std::string_view text) {
  std::string out(text);
  std::erase(out, '_');
  return out;
}

/// Whether `lexeme` may begin the argument of a test that has no brackets: `is divisibleby 3`.
bool begins_argument(const Lexeme& lexeme) {
  switch (lexeme.kind) {
    case Lexeme::name:
      return lexeme.text != "else" && lexeme.text != "or" && lexeme.text != "and" &&
             lexeme.text != "is" && lexeme.text != "if" && lexeme.text != "not";
    case Lexeme::string:
    case Lexeme::integer:
    case Lexeme::real:
      return true;
    default:
      return lexeme.text == "[" || lexeme.text == "{";
  }
}

/// std::vector's own list of initial values would copy them.
std::vector<Expression> listed(Expression first) {
  std::vector<Expression> list;
  list.push_back(std::move(first));
  return list;
}

std::vector<Expression> listed(Expression first, Expression second) {
  std::vector<Expression> list = listed(std::move(first));
  list.push_back(std::move(second));
  return list;
}

}  // namespace

const Lexeme& ExpressionParser::peek(size_t ahead) const {
  return lexemes_[std::min(at_ + ahead, lexemes_.size() - 1)];
}

const Lexeme& ExpressionParser::take() {
  const Lexeme& lexeme = peek();
  if (at_ + 1 < lexemes_.size()) ++at_;
  return lexeme;
}

bool ExpressionParser::is_sign(std::string_view sign, size_t ahead) const {
  return peek(ahead).kind == Lexeme::sign && peek(ahead).text == sign;
}

bool ExpressionParser::is_word(std::string_view word, size_t ahead) const {
  return peek(ahead).kind == Lexeme::name && peek(ahead).text == word;
}

bool ExpressionParser::skip_sign(std::string_view sign) {
  if (!is_sign(sign)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_word(std::string_view word) {
  if (!is_word(word)) return false;
  take();
  return true;
}

void ExpressionParser::want_sign(std::string_view sign) {
  if (!skip_sign(sign)) unexpected("'" + std::string(sign) + "'");
}

std::string_view ExpressionParser::want_name(std::string_view what) {
  if (peek().kind != Lexeme::name) unexpected(what);
  return take().text;
}

void ExpressionParser::unexpected(std::string_view wanted) const {
  const Lexeme& found = peek();
  throw Fault("wanted " + std::string(wanted) + ", found " +
                  (found.kind == Lexeme::end ? "the end" : "'" + std::string(found.text) + "'"),
              found.line);
}

void ExpressionParser::measure(Expression& expression) const {
  for (const Expression& part : expression.parts) {
    expression.depth = std::max(expression.depth, part.depth + 1);
  }
  if (expression.depth > max_expression_depth)
    throw Fault("an expression is too long", expression.line);
}

Expression ExpressionParser::make(Operation operation, size_t line, std::vector<Expression> parts,
                                  std::string_view text) const {
  Expression made{.operation = operation, .line = line, .text = text, .parts = std::move(parts)};
  measure(made);
  return made;
}

Expression ExpressionParser::constant(Value value) const {
  return {.operation = Operation::literal, .line = peek().line, .value = value};
}

Expression ExpressionParser::expression() {
  if (++nesting_ > max_expression_nesting)
    throw Fault("an expression is nested too deeply", peek().line);
  Expression value = logical_or();
  while (is_word("if")) {
    const size_t line = take().line;
    std::vector<Expression> parts = listed(logical_or(), std::move(value));
    if (skip_word("else")) parts.push_back(expression());
    value = make(Operation::conditional, line, std::move(parts));
  }
  --nesting_;
  return value;
}

Expression ExpressionParser::tuple(bool with_conditional) {
  const auto one = [&] { return with_conditional ? expression() : logical_or(); };
  const size_t line = peek().line;
  Expression first = one();
  if (!is_sign(",")) return first;
  std::vector<Expression> parts = listed(std::move(first));
  while (skip_sign(",")) {
    const Lexeme& next = peek();
    if (next.kind == Lexeme::block_end || next.kind == Lexeme::output_end || is_sign(")")) break;
    parts.push_back(one());
  }
  return make(Operation::tuple, line, std::move(parts));
}

Expression ExpressionParser::logical_or() {
  Expression left = logical_and();
  while (is_word("or")) {
    const size_t line = take().line;
    left = make(Operation::logical_or, line, listed(std::move(left), logical_and()));
  }
  return left;
}

Expression ExpressionParser::logical_and() {
  Expression left = logical_not();
  while (is_word("and")) {
    const size_t line = take().line;
    left = make(Operation::logical_and, line, listed(std::move(left), logical_not()));
  }
  return left;
}

Expression ExpressionParser::logical_not() {
  if (!is_word("not")) return comparison();
  const size_t line = take().line;
  if (++nesting_ > max_expression_nesting) throw Fault("an expression is nested too deeply", line);
  Expression of = logical_not();
  --nesting_;
  return make(Operation::logical_not, line, listed(std::move(of)));
}

Expression ExpressionParser::comparison() {
  constexpr std::array<std::string_view, 6> signs = {"==", "!=", "<=", ">=", "<", ">"};
  Expression first = sum();
  std::vector<Expression> parts;
  std::vector<std::string_view> operators;
  const size_t line = peek().line;
  while (true) {
    const bool is_sign =
        peek().kind == Lexeme::sign && std::ranges::find(signs, peek().text) != signs.end();
    if (is_sign || is_word("in")) {
      operators.push_back(take().text);
    } else if (is_word("not") && is_word("in", 1)) {
      take();
      take();
      operators.push_back("not in");
    } else {
      break;
    }
    parts.push_back(sum());
  }
  if (operators.empty()) return first;
  parts.insert(parts.begin(), std::move(first));
  Expression made = make(Operation::comparison, line, std::move(parts));
  made.names = std::move(operators);
  return made;
}

Expression ExpressionParser::sum() {
  Expression left = joined();
  while (is_sign("+") || is_sign("-")) {
    const Lexeme& sign = take();
    left = make(Operation::arithmetic, sign.line, listed(std::move(left), joined()), sign.text);
  }
  return left;
}

Expression ExpressionParser::joined() {
  const size_t line = peek().line;
  Expression first = product();
  if (!is_sign("~")) return first;
  std::vector<Expression> parts = listed(std::move(first));
  while (skip_sign("~")) parts.push_back(product());
  return make(Operation::join, line, std::move(parts));
}

Expression ExpressionParser::product() {
  Expression left = unary();
  while (is_sign("*") || is_sign("/") || is_sign("//") || is_sign("%")) {
    const Lexeme& sign = take();
    left = make(Operation::arithmetic, sign.line, listed(std::move(left), unary()), sign.text);
  }
  if (is_sign("**")) throw Fault("the operator '**' is not known here", peek().line);
  return left;
}

Expression ExpressionParser::unary(bool with_filters) {
  Expression value;
  if (is_sign("-") || is_sign("+")) {
    const Lexeme& sign = take();
    if (++nesting_ > max_expression_nesting)
      throw Fault("an expression is nested too deeply", sign.line);
    const Operation operation = sign.text == "-" ? Operation::negate : Operation::plus;
    value = make(operation, sign.line, listed(unary(false)));
    --nesting_;
  } else {
    value = primary();
  }
  value = postfix(std::move(value));
  return with_filters ? filters(std::move(value)) : std::move(value);
}

Expression ExpressionParser::primary() {
  const Lexeme& first = peek();
  if (first.kind == Lexeme::string) return string_literal();
  if (first.kind == Lexeme::integer) return integer_literal();
  if (first.kind == Lexeme::real) return real_literal();
  if (first.kind == Lexeme::name) {
    take();
    if (first.text == "true" || first.text == "True") return constant(true);
    if (first.text == "false" || first.text == "False") return constant(false);
    if (first.text == "none" || first.text == "None") return constant(None{});
    return make(Operation::name, first.line, {}, first.text);
  }
  if (skip_sign("(")) {
    if (skip_sign(")")) return make(Operation::tuple, first.line);
    Expression inner = tuple();
    want_sign(")");
    return inner;
  }
  if (skip_sign("[")) {
    std::vector<Expression> parts;
    while (!skip_sign("]")) {
      if (!parts.empty()) want_sign(",");
      if (skip_sign("]")) break;
      parts.push_back(expression());
    }
    return make(Operation::list, first.line, std::move(parts));
  }
  if (is_sign("{")) return dict();
  unexpected("an expression");
}

Expression ExpressionParser::dict() {
  const size_t line = take().line;
  std::vector<Expression> parts;
  while (!skip_sign("}")) {
    if (!parts.empty()) want_sign(",");
    if (skip_sign("}")) break;
    parts.push_back(expression());
    want_sign(":");
    parts.push_back(expression());
  }
  return make(Operation::dict, line, std::move(parts));
}

Expression ExpressionParser::postfix(Expression of) {
  while (true) {
    const size_t line = peek().line;
    if (skip_sign(".")) {
      if (peek().kind == Lexeme::integer) {
        Expression index = integer_literal();
        of = make(Operation::item, line, listed(std::move(of), std::move(index)));
      } else {
        const std::string_view name = want_name("a name behind '.'");
        of = make(Operation::attribute, line, listed(std::move(of)), name);
      }
    } else if (is_sign("[")) {
      of = subscript(std::move(of));
    } else if (is_sign("(")) {
      Expression call = make(Operation::call, line, listed(std::move(of)));
      arguments(call);
      of = std::move(call);
    } else {
      return of;
    }
  }
}

Expression ExpressionParser::subscript(Expression of) {
  const size_t line = take().line;
  std::vector<Expression> parts = listed(std::move(of));
  bool is_slice = false;
  for (int i = 0; i < 3; ++i) {
    const bool absent = is_sign(":") || (is_slice && is_sign("]"));
    parts.push_back(absent ? constant(None{}) : expression());
    if (!skip_sign(":")) break;
    is_slice = true;
  }
  if (is_sign(",")) throw Fault("an index with ',' is not known here", line);
  want_sign("]");
  if (is_slice) {
    while (parts.size() < 4) parts.push_back(constant(None{}));
  }
  return make(is_slice ? Operation::slice : Operation::item, line, std::move(parts));
}

Expression ExpressionParser::filters(Expression of) {
  while (true) {
    if (skip_sign("|")) {
      of = filter(std::move(of));
    } else if (is_word("is")) {
      of = test(std::move(of));
    } else if (is_sign("(")) {
      of = postfix(std::move(of));
    } else {
      return of;
    }
  }
}

Expression ExpressionParser::filter(Expression of) {
  const size_t line = peek().line;
  const std::string_view name = want_name("a filter's name");
  Expression made = make(Operation::filter, line, listed(std::move(of)), name);
  if (is_sign("(")) arguments(made);
  return made;
}

Expression ExpressionParser::test(Expression of) {
  const size_t line = take().line;
  const bool negated = skip_word("not");
  const std::string_view name = want_name("a test's name");
  Expression made = make(Operation::test, line, listed(std::move(of)), name);
  if (is_sign("(")) {
    arguments(made);
  } else if (begins_argument(peek())) {
    made.parts.push_back(postfix(primary()));
    measure(made);
  }
  return negated ? make(Operation::logical_not, line, listed(std::move(made))) : std::move(made);
}

Expression ExpressionParser::filters_of_block(bool begins_with_filter) {
  Expression of = make(Operation::name, peek().line);
  if (begins_with_filter) of = filter(std::move(of));
  while (skip_sign("|")) of = filter(std::move(of));
  return of;
}

/// The arguments of a call, appended to its parts.
void ExpressionParser::arguments(Expression& call) {
  want_sign("(");
  bool first = true;
  while (!skip_sign(")")) {
    if (!first) want_sign(",");
    if (skip_sign(")")) break;
    first = false;
    if (is_sign("*") || is_sign("**")) {
      throw Fault("arguments with '*' are not known here", peek().line);
    }
    if (peek().kind == Lexeme::name && is_sign("=", 1)) {
      call.names.push_back(take().text);
      take();
    } else if (!call.names.empty()) {
      unexpected("an argument with its name");
    }
    call.parts.push_back(expression());
  }
  measure(call);
}

Expression ExpressionParser::string_literal() {
  std::string text;
  while (peek().kind == Lexeme::string) {
    const Lexeme& lexeme = take();
    text += unescaped(lexeme.text.substr(1, lexeme.text.size() - 2), lexeme.line);
  }
  return constant(&program_.literals.emplace_back(text));
}

Expression ExpressionParser::integer_literal() {
  const Lexeme& lexeme = take();
  const std::string digits = without_underscores(lexeme.text);
  int64_t number = 0;
  const char* end = digits.data() + digits.size();
  if (std::from_chars(digits.data(), end, number).ec != std::errc()) {
    throw Fault("the number " + digits + " is too large", lexeme.line);
  }
  return constant(number);
}

Expression ExpressionParser::real_literal() {
  const Lexeme& lexeme = take();
  const std::string digits = without_underscores(lexeme.text);
  double number = 0;
  const char* end = digits.data() + digits.size();
  if (std::from_chars(digits.data(), end, number).ec != std::errc()) {
    throw Fault("the number " + digits + " is out of range", lexeme.line);
  }
  return constant(number);
}

}  // namespace vga::jinja
