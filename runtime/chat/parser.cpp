#include "chat/parser.h"

#include <algorithm>
#include <array>

#include "chat/expression_parser.h"
#include "chat/lexer.h"

namespace vga::jinja {
namespace {

constexpr size_t max_nesting = 50;  // of blocks

/// One kind of line break, and none at the very end: as Jinja reads a template.
std::string normalized(std::string_view source) {
  std::string text;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (source.substr(i + 1).starts_with('\n')) ++i;
      text += '\n';
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Parser {
 public:
  Parser(const std::vector<Lexeme>& lexemes, Program& program) : in_(lexemes, program) {}

  void run(Program& program) {
    program.body = block({});
    if (in_.peek().kind != Lexeme::end) in_.unexpected("no '" + std::string(end_word_) + "'");
  }

 private:
  using Words = std::initializer_list<std::string_view>;

  /// Statements up to a tag that begins with one of `ends`, whose word is taken and kept in
  /// end_word_; what stands behind it is the caller's.
  Block block(Words ends) {
    if (++nesting_ > max_nesting) throw Fault("blocks are nested too deeply", in_.peek().line);
    const size_t line = in_.peek().line;
    Block statements;
    while (true) {
      const Lexeme& next = in_.peek();
      if (next.kind == Lexeme::end) {
        if (ends.size() > 0)
          throw Fault("a block has no '" + std::string(*(ends.end() - 1)) + "'", line);
        break;
      }
      in_.take();
      if (next.kind == Lexeme::plain) {
        statements.push_back({.line = next.line, .value = MarkedText(next.text)});
      } else if (next.kind == Lexeme::output_begin) {
        statements.push_back(
            {.action = Action::output, .line = next.line, .expression = in_.tuple()});
        if (in_.take().kind != Lexeme::output_end) throw Fault("wanted '}}'", next.line);
      } else {
        const std::string_view word = in_.want_name("the name of a tag");
        if (std::ranges::find(ends, word) != ends.end()) {
          end_word_ = word;
          break;
        }
        statements.push_back(tag(word, next.line));
      }
    }
    --nesting_;
    return statements;
  }

  void end_tag() {
    if (in_.peek().kind != Lexeme::block_end) in_.unexpected("'%}'");
    in_.take();
  }

  /// The block behind a tag that ends here, with its end tag.
  Block body(std::string_view end) {
    end_tag();
    Block statements = block({end});
    end_tag();
    return statements;
  }

  Statement tag(std::string_view word, size_t line) {
    Statement made{.line = line};
    if (word == "if") {
      choice(made);
    } else if (word == "for") {
      loop(made);
    } else if (word == "set") {
      assignment(made);
    } else if (word == "macro") {
      macro(made);
    } else if (word == "filter") {
      filter(made);
    } else if (word == "with") {
      with(made);
    } else if (word == "generation") {
      made.action = Action::scope;
      made.body = inner_body("endgeneration");
    } else if (word == "break" || word == "continue") {
      if (n_loops_ == 0) throw Fault("'" + std::string(word) + "' stands outside of a loop", line);
      made.action = word == "break" ? Action::leave_loop : Action::next_round;
      end_tag();
    } else {
      throw Fault("the tag '" + std::string(word) + "' is not known here", line);
    }
    return made;
  }

  void choice(Statement& made) {
    made.action = Action::choice;
    end_word_ = "if";
    while (end_word_ != "endif") {
      Branch branch;
      const bool is_else = end_word_ == "else";
      if (!is_else) branch.condition = in_.tuple();
      end_tag();
      branch.body = is_else ? block({"endif"}) : block({"elif", "else", "endif"});
      made.branches.push_back(std::move(branch));
    }
    end_tag();
  }

  std::vector<std::string_view> targets() {
    const bool in_brackets = in_.skip_sign("(");
    std::vector<std::string_view> names = {in_.want_name("a name")};
    while (in_.skip_sign(",")) names.push_back(in_.want_name("a name"));
    if (in_brackets) in_.want_sign(")");
    return names;
  }

  void loop(Statement& made) {
    made.action = Action::loop;
    made.names = targets();
    if (!in_.skip_word("in")) in_.unexpected("'in'");
    made.expression = in_.tuple(false);
    if (in_.skip_word("if")) made.condition = in_.expression();
    if (in_.is_word("recursive")) throw Fault("a 'recursive' loop is not known here", made.line);
    end_tag();
    ++n_loops_;
    ++n_scopes_;
    made.body = block({"else", "endfor"});
    --n_scopes_;
    --n_loops_;
    if (end_word_ == "else") {
      end_tag();
      made.else_body = block({"endfor"});
    }
    end_tag();
  }

  void assignment(Statement& made) {
    made.names = targets();
    if (in_.skip_sign(".")) made.attribute = in_.want_name("a name behind '.'");
    if (in_.skip_sign("=")) {
      made.action = Action::assign;
      made.expression = in_.tuple();
      end_tag();
      return;
    }
    if (made.names.size() > 1 || !made.attribute.empty()) in_.unexpected("'='");
    made.action = Action::capture;
    made.expression = in_.filters_of_block(false);
    made.body = inner_body("endset");
  }

  void macro(Statement& made) {
    // What it sees of its surroundings would be gone when it is called.
    if (n_scopes_ > 0) {
      throw Fault("a macro in a loop, macro or other scope is not known here", made.line);
    }
    made.action = Action::macro;
    made.text = in_.want_name("a macro's name");
    in_.want_sign("(");
    while (!in_.skip_sign(")")) {
      if (!made.names.empty()) in_.want_sign(",");
      if (in_.skip_sign(")")) break;
      made.names.push_back(in_.want_name("a parameter"));
      if (in_.skip_sign("=")) {
        made.defaults.push_back(in_.expression());
      } else if (!made.defaults.empty()) {
        in_.unexpected("'='");
      }
    }
    made.body = inner_body("endmacro");
  }

  void filter(Statement& made) {
    made.action = Action::filter;
    made.expression = in_.filters_of_block(true);
    made.body = inner_body("endfilter");
  }

  void with(Statement& made) {
    made.action = Action::scope;
    while (in_.peek().kind != Lexeme::block_end) {
      if (!made.names.empty()) in_.want_sign(",");
      made.names.push_back(in_.want_name("a name"));
      in_.want_sign("=");
      made.defaults.push_back(in_.expression());
    }
    made.body = inner_body("endwith");
  }

  /// A body whose text goes elsewhere, so no loop around it can be left from there.
  Block inner_body(std::string_view end) {
    const size_t outside = n_loops_;
    n_loops_ = 0;
    ++n_scopes_;
    Block statements = body(end);
    --n_scopes_;
    n_loops_ = outside;
    return statements;
  }

  ExpressionParser in_;
  std::string_view end_word_;
  size_t nesting_ = 0;
  size_t n_loops_ = 0;
  size_t n_scopes_ = 0;  // loops too
};

}  // namespace

std::unique_ptr<const Program> parse(std::string_view source) {
  auto program = std::make_unique<Program>();
  program->source = normalized(source);
  const std::vector<Lexeme> lexemes = lex(program->source);
  Parser(lexemes, *program).run(*program);
  return program;
}

}  // namespace vga::jinja
