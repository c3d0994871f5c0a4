#include "chat/evaluator.h"

#include <algorithm>
#include <array>

#include "chat/filters.h"
#include "chat/methods.h"
#include "chat/operators.h"
#include "chat/tests.h"

namespace vga::jinja {
namespace {

/// Of expressions and statements in each other, macros included.
constexpr size_t max_running_depth = 400;

constexpr std::array<std::string_view, 5> functions = {"range", "namespace", "dict",
                                                       "raise_exception", "strftime_now"};

/// The names that a block has set; what is around it is seen through it.
struct Scope {
  const Scope* outer = nullptr;
  std::vector<std::pair<std::string_view, Value>> names = {};

  const Value* find(std::string_view name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->outer) {
      for (const auto& [known, value] : scope->names) {
        if (known == name) return &value;
      }
    }
    return nullptr;
  }
  void set(std::string_view name, const Value& value) {
    for (auto& [known, old] : names) {
      if (known == name) {
        old = value;
        return;
      }
    }
    names.emplace_back(name, value);
  }
};

enum class Flow { on, leave_loop, next_round };

class Evaluator {
 public:
  Evaluator(Heap& heap, std::time_t now) : heap_(heap), now_(now) {}

  MarkedText run(const Program& program,
                 const std::vector<std::pair<std::string_view, Value>>& names) {
    for (const std::string_view name : functions) globals_.set(name, Function{name});
    for (const auto& [name, value] : names) globals_.set(name, value);
    MarkedText out;
    block(program.body, globals_, out);
    return out;
  }

 private:
  /// One more level of the program; a Fault where the stack could come to its end.
  struct Level {
    explicit Level(size_t& depth) : depth_(depth) {
      if (depth_ >= max_running_depth) throw Fault("macros call each other too deeply");
      ++depth_;
    }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    ~Level() { --depth_; }
    size_t& depth_;
  };

  Flow block(const Block& statements, Scope& scope, MarkedText& out) {
    const Level level(depth_);
    for (const Statement& statement : statements) {
      try {
        const Flow flow = execute(statement, scope, out);
        if (flow != Flow::on) return flow;
      } catch (Fault& fault) {
        if (fault.line == 0) fault.line = statement.line;
        throw;
      }
    }
    return Flow::on;
  }

  Flow execute(const Statement& statement, Scope& scope, MarkedText& out) {
    heap_.spend(1);
    switch (statement.action) {
      case Action::text:
        write(out, statement.value);
        break;
      case Action::output: {
        const Value value = evaluate(*statement.expression, scope);
        heap_.spend(weight(value));
        write(out, to_text(value));
        break;
      }
      case Action::choice:
        return choice(statement, scope, out);
      case Action::loop:
        loop(statement, scope, out);
        break;
      case Action::assign:
        assign(statement, scope);
        break;
      case Action::capture:
        scope.set(statement.names[0], filtered(statement, scope));
        break;
      case Action::filter:
        write(out, to_text(filtered(statement, scope)));
        break;
      case Action::macro:
        scope.set(statement.text, &macros_.emplace_back(Macro{&statement}));
        break;
      case Action::scope: {
        Scope inner{.outer = &scope};
        for (size_t i = 0; i < statement.names.size(); ++i) {
          inner.set(statement.names[i], evaluate(statement.defaults[i], scope));
        }
        block(statement.body, inner, out);
        break;
      }
      case Action::leave_loop:
        return Flow::leave_loop;
      case Action::next_round:
        return Flow::next_round;
    }
    return Flow::on;
  }

  void write(MarkedText& out, const MarkedText& text) {
    heap_.spend(weight(&text));
    out.append(text);
  }

  Flow choice(const Statement& statement, Scope& scope, MarkedText& out) {
    for (const Branch& branch : statement.branches) {
      if (!branch.condition || truth(evaluate(*branch.condition, scope))) {
        return block(branch.body, scope, out);
      }
    }
    return Flow::on;
  }

  /// Sets names to a value, or to its items if there are several.
  void bind(const Statement& statement, Scope& scope, const Value& value) {
    if (statement.names.size() == 1) {
      scope.set(statement.names[0], value);
      return;
    }
    const std::vector<Value> items = iterate(heap_, value);
    if (items.size() != statement.names.size()) {
      throw Fault("wanted " + std::to_string(statement.names.size()) + " items, found " +
                  std::to_string(items.size()));
    }
    for (size_t i = 0; i < items.size(); ++i) scope.set(statement.names[i], items[i]);
  }

  void loop(const Statement& statement, Scope& scope, MarkedText& out) {
    std::vector<Value> items = iterate(heap_, evaluate(*statement.expression, scope));
    if (statement.condition) {
      std::erase_if(items, [&](const Value& item) {
        Scope inner{.outer = &scope};
        bind(statement, inner, item);
        return !truth(evaluate(*statement.condition, inner));
      });
    }
    Dict* where = heap_.name_space();
    for (size_t i = 0; i < items.size(); ++i) {
      Scope inner{.outer = &scope};
      tell_place(*where, items, i);
      inner.set("loop", where);
      bind(statement, inner, items[i]);
      if (block(statement.body, inner, out) == Flow::leave_loop) break;
    }
    if (items.empty()) block(statement.else_body, scope, out);
  }

  /// What the variable `loop` says in round i.
  static void tell_place(Dict& loop, const std::vector<Value>& items, size_t i) {
    static const std::array<MarkedText, 9> names = {
        MarkedText("index"),     MarkedText("index0"),   MarkedText("revindex"),
        MarkedText("revindex0"), MarkedText("first"),    MarkedText("last"),
        MarkedText("length"),    MarkedText("previtem"), MarkedText("nextitem")};
    const auto n = static_cast<int64_t>(items.size());
    const auto at = static_cast<int64_t>(i);
    const std::array<Value, 9> values = {at + 1,
                                         at,
                                         n - at,
                                         n - at - 1,
                                         i == 0,
                                         at == n - 1,
                                         n,
                                         i > 0 ? items[i - 1] : Undefined{"previtem"},
                                         at + 1 < n ? items[i + 1] : Undefined{"nextitem"}};
    loop.items.clear();
    for (size_t k = 0; k < names.size(); ++k) loop.items.emplace_back(&names[k], values[k]);
  }

  void assign(const Statement& statement, Scope& scope) {
    const Value value = evaluate(*statement.expression, scope);
    if (statement.attribute.empty()) {
      bind(statement, scope, value);
      return;
    }
    const Value* target = scope.find(statement.names[0]);
    Dict* const* space = target != nullptr ? as<Dict*>(*target) : nullptr;
    if (space == nullptr) {
      throw Fault("'" + std::string(statement.names[0]) + "' is no namespace, so '." +
                  std::string(statement.attribute) + "' of it cannot be set");
    }
    set_entry(**space, statement.attribute, value);
  }

  void set_entry(Dict& dict, std::string_view name, const Value& value) {
    for (auto& [key, old] : dict.items) {
      if (as_text(key)->chars() == name) {
        old = value;
        return;
      }
    }
    heap_.spend(dict.items.size());
    dict.items.emplace_back(heap_.text(name), value);
  }

  /// What a block's body writes, through its filters.
  Value filtered(const Statement& statement, Scope& scope) {
    Scope inner{.outer = &scope};
    MarkedText text;
    block(statement.body, inner, text);
    inner.set("", heap_.text(std::move(text)));
    return evaluate(*statement.expression, inner);
  }

  Value evaluate(const Expression& expression, const Scope& scope) {
    const Level level(depth_);
    heap_.spend(1);
    switch (expression.operation) {
      case Operation::literal:
        return expression.value;
      case Operation::name: {
        const Value* found = scope.find(expression.text);
        return found != nullptr ? *found : Undefined{expression.text};
      }
      case Operation::list:
      case Operation::tuple:
        return heap_.list(all(expression, scope, 0), expression.operation == Operation::tuple);
      case Operation::dict:
        return dict(all(expression, scope, 0));
      case Operation::join:
        return joined(all(expression, scope, 0));
      case Operation::comparison:
        return compared(expression, scope);
      default:
        return operate(expression, scope, evaluate(expression.parts[0], scope));
    }
  }

  /// Operations whose first operand is always evaluated, and before the others.
  Value operate(const Expression& expression, const Scope& scope, const Value& first) {
    const auto& parts = expression.parts;
    const auto part = [&](size_t i) { return evaluate(parts[i], scope); };
    const auto arguments = [&] { return Arguments{all(expression, scope, 1), expression.names}; };
    switch (expression.operation) {
      case Operation::attribute:
        return attribute(heap_, first, expression.text);
      case Operation::item:
        return item(heap_, first, part(1));
      case Operation::slice: {
        const std::vector<Value> bounds = all(expression, scope, 1);
        return slice(heap_, first, bounds[0], bounds[1], bounds[2]);
      }
      case Operation::call:
        return call(first, arguments());
      case Operation::filter:
        return apply_filter(heap_, expression.text, first, arguments());
      case Operation::test:
        return apply_test(heap_, expression.text, first, arguments());
      case Operation::negate:
        return negated(first);
      case Operation::plus:
        return negated(negated(first));
      case Operation::logical_not:
        return !truth(first);
      case Operation::logical_and:
        return truth(first) ? part(1) : first;
      case Operation::logical_or:
        return truth(first) ? first : part(1);
      case Operation::arithmetic:
        return arithmetic(heap_, expression.text, first, part(1));
      case Operation::conditional:
        if (truth(first)) return part(1);
        return parts.size() > 2 ? part(2) : Undefined{"the other value of an 'if'"};
      default:
        return None{};  // evaluate() has the rest
    }
  }

  Value joined(const std::vector<Value>& values) {
    MarkedText text;
    for (const Value& value : values) {
      heap_.spend(weight(value));
      text.append(to_text(value));
    }
    return heap_.text(std::move(text));
  }

  std::vector<Value> all(const Expression& expression, const Scope& scope, size_t from) {
    std::vector<Value> values;
    for (size_t i = from; i < expression.parts.size(); ++i) {
      values.push_back(evaluate(expression.parts[i], scope));
    }
    return values;
  }

  Value dict(const std::vector<Value>& parts) {
    std::vector<std::pair<Value, Value>> items;
    for (size_t i = 0; i + 1 < parts.size(); i += 2) {
      const auto same = std::ranges::find_if(
          items, [&](const auto& item) { return equal(item.first, parts[i]); });
      if (same != items.end()) {
        same->second = parts[i + 1];
      } else {
        items.emplace_back(parts[i], parts[i + 1]);
      }
    }
    return heap_.dict(std::move(items));
  }

  bool compared(const Expression& expression, const Scope& scope) {
    Value left = evaluate(expression.parts[0], scope);
    for (size_t i = 0; i < expression.names.size(); ++i) {
      const Value right = evaluate(expression.parts[i + 1], scope);
      if (!comparison(heap_, expression.names[i], left, right)) return false;
      left = right;
    }
    return true;
  }

  Value call(const Value& callee, const Arguments& arguments) {
    if (const auto* method = as<const Method*>(callee))
      return call_method(heap_, **method, arguments);
    if (const auto* macro = as<const Macro*>(callee)) return call_macro(**macro, arguments);
    if (const auto* function = as<Function>(callee))
      return call_function(function->name, arguments);
    if (const auto* undefined = as<Undefined>(callee)) {
      throw Fault("'" + std::string(undefined->name) + "' is not known here, and is called");
    }
    throw Fault(std::string(type_name(callee)) + " cannot be called");
  }

  Value call_macro(const Macro& macro, const Arguments& arguments) {
    const Statement& statement = *macro.statement;
    Scope inner{.outer = &globals_};
    const size_t n_positional = arguments.values.size() - arguments.names.size();
    const auto& names = statement.names;
    if (n_positional > names.size()) {
      throw Fault("the macro '" + std::string(statement.text) + "' has too many arguments");
    }
    for (size_t i = 0; i < names.size(); ++i) {
      const auto named = std::ranges::find(arguments.names, names[i]);
      if (i < n_positional) {
        inner.set(names[i], arguments.values[i]);
      } else if (named != arguments.names.end()) {
        const auto at = static_cast<size_t>(named - arguments.names.begin());
        inner.set(names[i], arguments.values[n_positional + at]);
      } else if (names.size() - i <= statement.defaults.size()) {
        const size_t at = statement.defaults.size() - (names.size() - i);
        inner.set(names[i], evaluate(statement.defaults[at], inner));
      } else {
        inner.set(names[i], Undefined{names[i]});
      }
    }
    for (const std::string_view name : arguments.names) {
      if (std::ranges::find(names, name) == names.end()) {
        throw Fault("the macro '" + std::string(statement.text) + "' has no parameter '" +
                    std::string(name) + "'");
      }
    }
    MarkedText text;
    block(statement.body, inner, text);
    return heap_.text(std::move(text));
  }

  Value call_function(std::string_view name, const Arguments& arguments) {
    if (name == "range") return range(arguments);
    if (name == "raise_exception") {
      throw Refused(std::string(Bound(name, arguments, {"message"}).text(0).chars()));
    }
    if (name == "strftime_now") return formatted_time(Bound(name, arguments, {"format"}).text(0));
    std::vector<std::pair<Value, Value>> items;
    const size_t n_positional = arguments.values.size() - arguments.names.size();
    for (size_t i = 0; i < n_positional; ++i) {
      const Dict* dict = as_dict(arguments.values[i]);
      if (dict == nullptr) throw Fault("'" + std::string(name) + "' wanted a dict");
      items.insert(items.end(), dict->items.begin(), dict->items.end());
    }
    for (size_t i = 0; i < arguments.names.size(); ++i) {
      items.emplace_back(heap_.text(arguments.names[i]), arguments.values[n_positional + i]);
    }
    if (name == "dict") return heap_.dict(std::move(items));
    Dict* space = heap_.name_space();
    for (const auto& [key, value] : items) {
      if (as_text(key) == nullptr) throw Fault("'namespace' wanted texts as names");
      set_entry(*space, as_text(key)->chars(), value);
    }
    return space;
  }

  Value range(const Arguments& arguments) {
    const Bound bound("range", arguments, {"start", "stop", "step"});
    const bool has_stop = bound.has(1);
    const int64_t start = has_stop ? bound.integer(0, 0) : 0;
    const int64_t stop = bound.integer(has_stop ? 1 : 0, 0);
    const int64_t step = bound.integer(2, 1);
    if (step == 0) throw Fault("'range' has step 0");
    std::vector<Value> items;
    for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
      heap_.spend(1);
      items.emplace_back(i);
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    return heap_.list(std::move(items));
  }

  Value formatted_time(const MarkedText& format) {
    if (format.size() > 200) throw Fault("'strftime_now' wanted a shorter text");
    std::tm time{};
    ::localtime_r(&now_, &time);
    std::array<char, 4096> text{};
    const size_t n =
        std::strftime(text.data(), text.size(), std::string(format.chars()).c_str(), &time);
    return heap_.text(std::string_view(text.data(), n));
  }

  Heap& heap_;
  std::time_t now_;
  Scope globals_;
  std::deque<Macro> macros_;
  size_t depth_ = 0;
};

}  // namespace

MarkedText run(const Program& program, Heap& heap,
               const std::vector<std::pair<std::string_view, Value>>& names, std::time_t now) {
  return Evaluator(heap, now).run(program, names);
}

}  // namespace vga::jinja
