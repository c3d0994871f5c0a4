#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "chat/lexer.h"
#include "chat/syntax.h"

namespace vga::jinja {

/// Reads the expressions of a template, which is all that stands in its tags but for their words.
/// How strongly operators bind is Jinja's order, in which filters and tests bind the most.
class ExpressionParser {
 public:
  /// Both outlive it.
  ExpressionParser(const std::vector<Lexeme>& lexemes, Program& program)
      : lexemes_(lexemes), program_(program) {}

  const Lexeme& peek(size_t ahead = 0) const;
  const Lexeme& take();
  bool is_sign(std::string_view sign, size_t ahead = 0) const;
  bool is_word(std::string_view word, size_t ahead = 0) const;
  bool skip_sign(std::string_view sign);
  bool skip_word(std::string_view word);
  void want_sign(std::string_view sign);
  std::string_view want_name(std::string_view what);
  [[noreturn]] void unexpected(std::string_view wanted) const;

  /// a if b else c, and all that binds more strongly.
  Expression expression();
  /// The same without the conditional: what a loop runs over, whose `if` is its own.
  Expression without_conditional() { return logical_or(); }
  /// Expressions with commas between them are a tuple.
  Expression tuple(bool with_conditional = true);
  /// The filters of what a block writes, which the name '' stands for; the first one may come
  /// without its '|'.
  Expression filters_of_block(bool begins_with_filter);

 private:
  Expression logical_or();
  Expression logical_and();
  Expression logical_not();
  Expression comparison();
  Expression sum();
  Expression joined();
  Expression product();
  Expression unary(bool with_filters = true);
  Expression primary();
  Expression postfix(Expression of);
  Expression filters(Expression of);
  Expression filter(Expression of);
  Expression test(Expression of);
  Expression subscript(Expression of);
  Expression dict();
  void arguments(Expression& call);
  Expression string_literal();
  Expression integer_literal();
  Expression real_literal();

  Expression make(Operation operation, size_t line, std::vector<Expression> parts = {},
                  std::string_view text = {}) const;
  Expression constant(Value value) const;
  void measure(Expression& expression) const;

  const std::vector<Lexeme>& lexemes_;
  Program& program_;
  size_t at_ = 0;
  size_t nesting_ = 0;
};

}  // namespace vga::jinja
