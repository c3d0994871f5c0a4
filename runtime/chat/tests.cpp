#include "chat/tests.h"

#include <algorithm>
#include <array>

#include "chat/operators.h"

namespace vga::jinja {
namespace {

/// Tests that compare two values, and the operator that says the same.
struct Comparison {
  std::string_view test;
  std::string_view sign;
};
constexpr std::array<Comparison, 18> comparisons = {{{"eq", "=="},
                                                     {"equalto", "=="},
                                                     {"==", "=="},
                                                     {"ne", "!="},
                                                     {"!=", "!="},
                                                     {"lt", "<"},
                                                     {"lessthan", "<"},
                                                     {"<", "<"},
                                                     {"le", "<="},
                                                     {"<=", "<="},
                                                     {"gt", ">"},
                                                     {"greaterthan", ">"},
                                                     {">", ">"},
                                                     {"ge", ">="},
                                                     {">=", ">="},
                                                     {"in", "in"},
                                                     {"sameas", "=="},
                                                     {"divisibleby", "%"}}};

bool is_sequence(const Value& value) {
  return as_text(value) != nullptr || as_list(value) != nullptr || as_dict(value) != nullptr ||
         is_undefined(value);
}

/// Whether a text has letters and all of them are in one case.
bool is_in_case(const Value& value, Case wanted) {
  const MarkedText text = to_text(value);
  const Case other = wanted == Case::lower ? Case::upper : Case::lower;
  return with_case(text, wanted).chars() == text.chars() &&
         with_case(text, other).chars() != text.chars();
}

int64_t integer_of(std::string_view name, const Value& value) {
  const auto number = as_integer(value);
  if (!number) {
    throw Fault("'" + std::string(name) + "' wanted an integer, found " +
                std::string(type_name(value)));
  }
  return *number;
}

}  // namespace

bool apply_test(Heap& heap, std::string_view name, const Value& value, const Arguments& arguments) {
  const auto* comparing = std::ranges::find(comparisons, name, &Comparison::test);
  if (comparing != comparisons.end()) {
    const Value other = Bound(name, arguments, {"other"}).get(0);
    if (name == "sameas" && value.index() != other.index()) return false;
    if (name != "divisibleby") return comparison(heap, comparing->sign, value, other);
    return integer_of(name, arithmetic(heap, "%", value, other)) == 0;
  }
  const Bound none(name, arguments, {});
  if (name == "defined") return !is_undefined(value);
  if (name == "undefined") return is_undefined(value);
  if (name == "none") return is_none(value);
  if (name == "string") return as_text(value) != nullptr;
  if (name == "mapping") return as_dict(value) != nullptr;
  if (name == "sequence" || name == "iterable") return is_sequence(value);
  if (name == "boolean") return as<bool>(value) != nullptr;
  if (name == "true" || name == "false") {
    return as<bool>(value) != nullptr && *as<bool>(value) == (name == "true");
  }
  if (name == "integer") return as<int64_t>(value) != nullptr;
  if (name == "float") return as<double>(value) != nullptr;
  if (name == "number") return as_number(value).has_value();
  if (name == "even") return integer_of(name, value) % 2 == 0;
  if (name == "odd") return integer_of(name, value) % 2 != 0;
  if (name == "callable") {
    return as<Function>(value) != nullptr || as<const Macro*>(value) != nullptr ||
           as<const Method*>(value) != nullptr;
  }
  if (name == "lower" || name == "upper") {
    heap.spend(weight(value));
    return is_in_case(value, name == "lower" ? Case::lower : Case::upper);
  }
  throw Fault("the test '" + std::string(name) + "' is not known here");
}

}  // namespace vga::jinja
