#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "chat/fault.h"
#include "chat/marked_text.h"

namespace vga::jinja {

struct Dict;
struct List;
struct Macro;
struct Method;

/// A name that nothing defines; most uses of it are faults.
struct Undefined {
  std::string_view name;  // for messages
};
struct None {};
/// A function that templates are given: "range".
struct Function {
  std::string_view name;
};

/// What an expression is. Texts, lists and dicts lie in the Heap of one rendering, or in the
/// template itself, and never change; only namespaces do.
using Value = std::variant<Undefined, None, bool, int64_t, double, const MarkedText*, const List*,
                           const Dict*, Dict*, Function, const Macro*, const Method*>;

/// A list or a tuple.
struct List {
  std::vector<Value> items;
  bool is_tuple = false;
  size_t depth = 1;   // of lists and dicts in it, with itself
  size_t weight = 1;  // what walking through all of it costs, in steps
};

/// A dict in the order in which its entries came. As a `Dict*` a namespace, whose entries change.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  size_t depth = 1;
  size_t weight = 1;

  /// Null if there is none of that name.
  const Value* find(std::string_view name) const;
};

/// A method that is not called yet: `text.split`.
struct Method {
  Value of;
  std::string_view name;
};

template <class T>
const T* as(const Value& value) {
  return std::get_if<T>(&value);
}
inline const MarkedText* as_text(const Value& value) {
  const auto* text = std::get_if<const MarkedText*>(&value);
  return text != nullptr ? *text : nullptr;
}
inline const List* as_list(const Value& value) {
  const auto* list = std::get_if<const List*>(&value);
  return list != nullptr ? *list : nullptr;
}
inline const Dict* as_dict(const Value& value) {
  const auto* dict = std::get_if<const Dict*>(&value);
  return dict != nullptr ? *dict : nullptr;
}
inline bool is_undefined(const Value& value) {
  return std::holds_alternative<Undefined>(value);
}
inline bool is_none(const Value& value) {
  return std::holds_alternative<None>(value);
}

/// Owns what a rendering makes, and counts what it costs: a template is a program from a file.
class Heap {
 public:
  explicit Heap(size_t max_steps) : steps_left_(max_steps) {}

  /// Counts steps; a Fault when there were too many.
  void spend(size_t steps);

  Value text(MarkedText text);
  Value text(std::string_view text) { return this->text(MarkedText(text)); }
  Value list(std::vector<Value> items, bool is_tuple = false);
  Value dict(std::vector<std::pair<Value, Value>> items);
  Dict* name_space();
  Value method(Value of, std::string_view name);

 private:
  size_t steps_left_;
  std::deque<MarkedText> texts_;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
  std::deque<Method> methods_;
};

/// What walking through all of a value costs, in steps.
size_t weight(const Value& value);
/// "str", "list": what Python calls its type.
std::string_view type_name(const Value& value);
bool truth(const Value& value);
bool equal(const Value& a, const Value& b);
/// -1, 0 or 1; a Fault if the two have no order.
int compare(const Value& a, const Value& b);
/// `needle in haystack`.
bool contains(const Value& haystack, const Value& needle);
/// An int, or a bool as one.
std::optional<int64_t> as_integer(const Value& value);
/// An int, a bool or a float.
std::optional<double> as_number(const Value& value);
/// How many characters, items or entries.
int64_t length(const Value& value);
/// What a loop over `value` sees: items, keys, characters.
std::vector<Value> iterate(Heap& heap, const Value& value);
/// What `{{ value }}` writes.
MarkedText to_text(const Value& value);
/// A float as Python writes it.
std::string float_text(double number);

}  // namespace vga::jinja
