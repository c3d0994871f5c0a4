#include "chat/filters.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "chat/json.h"
#include "chat/methods.h"
#include "chat/operators.h"
#include "chat/tests.h"

namespace vga::jinja {
namespace {

Value default_value(Heap& heap, const Value& value, const Arguments& arguments) {
  const Bound bound("default", arguments, {"default_value", "boolean"});
  const bool absent = is_undefined(value) || (bound.truth(1, false) && !truth(value));
  if (!absent) return value;
  return bound.has(0) ? bound.get(0) : heap.text("");
}

/// `value.a.b.0` for the path "a.b.0"; `otherwise` stands for what is not there.
Value attribute_path(Heap& heap, Value value, const Value& path,
                     const std::optional<Value>& otherwise = std::nullopt) {
  const MarkedText* text = as_text(path);
  if (text == nullptr) return item(heap, value, path);
  std::string_view rest = text->chars();
  while (true) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view part = rest.substr(0, dot);
    int64_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = error == std::errc() && end == part.data() + part.size();
    value = item(heap, value, is_index ? Value(index) : heap.text(part));
    if (otherwise && is_undefined(value)) value = *otherwise;
    if (dot == rest.size()) return value;
    rest.remove_prefix(dot + 1);
  }
}

/// The arguments behind the first n.
Arguments rest_of(const Arguments& arguments, size_t n) {
  Arguments rest = arguments;
  rest.values.erase(rest.values.begin(), rest.values.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                                   n, rest.values.size())));
  return rest;
}

Value first_of(std::string_view callee, const Arguments& arguments) {
  if (arguments.values.size() == arguments.names.size()) {
    throw Fault("'" + std::string(callee) + "' wanted an argument");
  }
  return arguments.values[0];
}

std::string_view name_argument(std::string_view callee, const Arguments& arguments) {
  const MarkedText* name = as_text(first_of(callee, arguments));
  if (name == nullptr) throw Fault("'" + std::string(callee) + "' wanted a name");
  return name->chars();
}

/// None, for example, has no items for these filters, where others refuse it.
std::vector<Value> iterate_if_any(Heap& heap, const Value& value) {
  return truth(value) ? iterate(heap, value) : std::vector<Value>();
}

Value map(Heap& heap, const Value& value, const Arguments& arguments) {
  std::vector<Value> items = iterate_if_any(heap, value);
  if (!arguments.names.empty() && arguments.names[0] == "attribute") {
    const Bound bound("map", arguments, {"attribute", "default"});
    const std::optional<Value> otherwise =
        bound.has(1) ? std::optional(bound.get(1)) : std::nullopt;
    for (Value& one : items) one = attribute_path(heap, one, bound.get(0), otherwise);
  } else {
    const std::string_view filter = name_argument("map", arguments);
    const Arguments rest = rest_of(arguments, 1);
    for (Value& one : items) one = apply_filter(heap, filter, one, rest);
  }
  return heap.list(std::move(items));
}

/// select, reject, selectattr, rejectattr.
Value select(Heap& heap, std::string_view name, const Value& value, const Arguments& arguments) {
  const bool by_attribute = name.ends_with("attr");
  const bool wanted = name.starts_with("select");
  const Value path = by_attribute ? first_of(name, arguments) : None{};
  const Arguments of_test = rest_of(arguments, by_attribute ? 1 : 0);
  const bool has_test = !of_test.values.empty();
  const std::string_view test = has_test ? name_argument(name, of_test) : "";
  const Arguments rest = rest_of(of_test, 1);
  std::vector<Value> items;
  for (const Value& one : iterate_if_any(heap, value)) {
    const Value subject = by_attribute ? attribute_path(heap, one, path) : one;
    const bool is_so = has_test ? apply_test(heap, test, subject, rest) : truth(subject);
    if (is_so == wanted) items.push_back(one);
  }
  return heap.list(std::move(items));
}

Value join(Heap& heap, const Value& value, const Arguments& arguments) {
  const Bound bound("join", arguments, {"d", "attribute"});
  MarkedText out;
  bool first = true;
  const Value separator = bound.has(0) ? bound.get(0) : heap.text("");
  for (const Value& one : iterate(heap, value)) {
    const Value part = bound.has(1) ? attribute_path(heap, one, bound.get(1)) : one;
    heap.spend(weight(part) + weight(separator));
    if (!first) out.append(to_text(separator));
    first = false;
    out.append(to_text(part));
  }
  return heap.text(std::move(out));
}

/// What sorting and telling apart goes by: texts without their case, unless it is asked for.
Value sort_key(Heap& heap, const Value& value, bool case_sensitive) {
  const MarkedText* text = as_text(value);
  return text == nullptr || case_sensitive ? value : heap.text(with_case(*text, Case::lower));
}

/// Sorts by the keys that come first in the pairs.
std::vector<Value> sorted(Heap& heap, std::vector<std::pair<Value, Value>> items, bool reverse) {
  std::ranges::stable_sort(items, [&](const auto& a, const auto& b) {
    heap.spend(1);
    return reverse ? compare(b.first, a.first) < 0 : compare(a.first, b.first) < 0;
  });
  std::vector<Value> values;
  for (const auto& [key, value] : items) values.push_back(value);
  return values;
}

Value sort(Heap& heap, const Value& value, const Arguments& arguments) {
  const Bound bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<std::pair<Value, Value>> items;
  for (const Value& one : iterate(heap, value)) {
    const Value key = bound.has(2) ? attribute_path(heap, one, bound.get(2)) : one;
    items.emplace_back(sort_key(heap, key, bound.truth(1, false)), one);
  }
  return heap.list(sorted(heap, std::move(items), bound.truth(0, false)));
}

const Dict& dict_of(std::string_view filter, const Value& value) {
  const Dict* dict = as_dict(value);
  if (dict == nullptr) {
    throw Fault("'" + std::string(filter) + "' wanted a dict, found " +
                std::string(type_name(value)));
  }
  return *dict;
}

Value dict_sort(Heap& heap, const Value& value, const Arguments& arguments) {
  const Bound bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const bool by_value = bound.has(1) && bound.text(1).chars() == "value";
  std::vector<std::pair<Value, Value>> items;
  for (const auto& [key, entry] : dict_of("dictsort", value).items) {
    items.emplace_back(sort_key(heap, by_value ? entry : key, bound.truth(0, false)),
                       heap.list({key, entry}, true));
  }
  return heap.list(sorted(heap, std::move(items), bound.truth(2, false)));
}

Value unique(Heap& heap, const Value& value, const Arguments& arguments) {
  const Bound bound("unique", arguments, {"case_sensitive", "attribute"});
  std::vector<Value> seen;
  std::vector<Value> items;
  for (const Value& one : iterate(heap, value)) {
    const Value key = sort_key(heap, bound.has(1) ? attribute_path(heap, one, bound.get(1)) : one,
                               bound.truth(0, false));
    heap.spend(seen.size() + weight(key));
    if (std::ranges::any_of(seen, [&](const Value& other) { return equal(key, other); })) continue;
    seen.push_back(key);
    items.push_back(one);
  }
  return heap.list(std::move(items));
}

Value extreme(Heap& heap, std::string_view name, const Value& value, const Arguments& arguments) {
  const Bound bound(name, arguments, {"case_sensitive", "attribute"});
  Value best = Undefined{"an item"};
  Value best_key;
  for (const Value& one : iterate(heap, value)) {
    const Value key = sort_key(heap, bound.has(1) ? attribute_path(heap, one, bound.get(1)) : one,
                               bound.truth(0, false));
    if (is_undefined(best) ||
        (name == "min" ? compare(key, best_key) < 0 : compare(key, best_key) > 0)) {
      best = one;
      best_key = key;
    }
  }
  return best;
}

Value sum(Heap& heap, const Value& value, const Arguments& arguments) {
  const Bound bound("sum", arguments, {"attribute", "start"});
  Value total = bound.get(1, int64_t{0});
  for (const Value& one : iterate(heap, value)) {
    const bool by_attribute = bound.has(0) && !is_none(bound.get(0));
    total =
        arithmetic(heap, "+", total, by_attribute ? attribute_path(heap, one, bound.get(0)) : one);
  }
  return total;
}

Value reversed(Heap& heap, const Value& value) {
  std::vector<Value> items = iterate(heap, value);
  std::ranges::reverse(items);
  if (as_text(value) == nullptr) return heap.list(std::move(items));
  MarkedText out;
  for (const Value& one : items) out.append(*as_text(one));
  return heap.text(std::move(out));
}

/// The number that a text spells, as far as Python reads it so.
std::optional<double> spelled_number(const Value& value) {
  if (const auto number = as_number(value)) return number;
  const MarkedText* text = as_text(value);
  if (text == nullptr) return std::nullopt;
  const Range range = strip_spaces(text->chars());
  std::string_view chars = text->chars().substr(range.begin, range.end - range.begin);
  if (chars.starts_with('+')) chars.remove_prefix(1);
  double number = 0;
  const auto [end, error] = std::from_chars(chars.data(), chars.data() + chars.size(), number);
  return error == std::errc() && end == chars.data() + chars.size() ? std::optional(number)
                                                                    : std::nullopt;
}

Value to_integer(const Value& value, const Arguments& arguments) {
  const Bound bound("int", arguments, {"default"});
  if (const auto integer = as_integer(value)) return *integer;
  const auto number = spelled_number(value);
  if (!number || !std::isfinite(*number)) return bound.get(0, int64_t{0});
  if (std::abs(*number) >= 9e15) throw Fault("'int' found a number that is too large");
  return static_cast<int64_t>(*number);
}

Value absolute(const Value& value) {
  const auto number = as_number(value);
  if (!number) throw Fault("'abs' wanted a number, found " + std::string(type_name(value)));
  return *number < 0 ? negated(value) : value;
}

Value rounded(const Value& value, const Arguments& arguments) {
  const Bound bound("round", arguments, {"precision", "method"});
  const auto number = as_number(value);
  const int64_t precision = bound.integer(0, 0);
  const std::string_view method = bound.has(1) ? bound.text(1).chars() : "common";
  if (!number || precision < 0 || precision > 15) throw Fault("'round' wanted a number");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = *number * scale;
  return (method == "ceil"    ? std::ceil(scaled)
          : method == "floor" ? std::floor(scaled)
                              : std::nearbyint(scaled)) /
         scale;
}

/// Words begin behind spaces, hyphens and opening brackets.
bool is_no_break(uint32_t c) {
  return !is_space(c) && c != '-' && c != '(' && c != '{' && c != '[' && c != '<';
}

MarkedText indented(Heap& heap, const MarkedText& text, const Arguments& arguments) {
  const Bound bound("indent", arguments, {"width", "first", "blank"});
  const Value asked = bound.get(0, int64_t{4});
  const MarkedText* given = as_text(asked);
  const int64_t width = given != nullptr ? 0 : bound.integer(0, 4);
  if (width < 0 || width > 1000) throw Fault("'indent' wanted a width between 0 and 1000");
  const MarkedText spaces =
      given != nullptr ? *given : MarkedText(std::string(static_cast<size_t>(width), ' '));
  MarkedText out;
  const std::string_view chars = text.chars();
  for (size_t begin = 0; begin <= chars.size();) {
    const size_t end = std::min(chars.find('\n', begin), chars.size());
    const bool wanted = begin == 0 ? bound.truth(1, false) : bound.truth(2, false) || end > begin;
    heap.spend(weight(&spaces));
    if (wanted) out.append(spaces);
    out.append(text, begin, std::min(end + 1, chars.size()));
    begin = end + 1;
  }
  return out;
}

MarkedText escaped(const MarkedText& text) {
  MarkedText out;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text.chars()[i];
    const std::string_view spelled = c == '&'    ? "&amp;"
                                     : c == '<'  ? "&lt;"
                                     : c == '>'  ? "&gt;"
                                     : c == '\'' ? "&#39;"
                                     : c == '"'  ? "&#34;"
                                                 : text.chars().substr(i, 1);
    out.append(spelled, text.from_message(i));
  }
  return out;
}

Value json(Heap& heap, const Value& value, const Arguments& arguments) {
  const Bound bound("tojson", arguments, {"indent", "ensure_ascii", "separators", "sort_keys"});
  JsonLayout layout{.ascii = bound.truth(1, false), .sorts_keys = bound.truth(3, false)};
  if (bound.has(0) && !is_none(bound.get(0))) {
    const int64_t indent = bound.integer(0, 0);
    if (indent < 0 || indent > 100) throw Fault("'tojson' wanted an indent between 0 and 100");
    layout.indent = static_cast<size_t>(indent);
  }
  if (bound.has(2) && !is_none(bound.get(2))) {
    const Value separators = bound.get(2);
    const List* list = as_list(separators);
    if (list == nullptr || list->items.size() != 2 || as_text(list->items[0]) == nullptr ||
        as_text(list->items[1]) == nullptr) {
      throw Fault("'tojson' wanted two texts as separators");
    }
    layout.item_separator = as_text(list->items[0])->chars();
    layout.key_separator = as_text(list->items[1])->chars();
  }
  heap.spend(weight(value) * (1 + layout.indent.value_or(0)));
  return heap.text(to_json(value, layout));
}

/// Filters of a text; nullopt if it is another's.
std::optional<Value> apply_text_filter(Heap& heap, std::string_view name, const Value& value,
                                       const Arguments& arguments) {
  constexpr std::array<std::string_view, 12> names = {"trim",  "upper",   "lower",  "capitalize",
                                                      "title", "replace", "indent", "escape",
                                                      "e",     "safe",    "string", "wordcount"};
  if (std::ranges::find(names, name) == names.end()) return std::nullopt;
  heap.spend(weight(value));
  const MarkedText text = to_text(value);
  if (name == "trim") return heap.text(stripped(text, name, arguments));
  if (name == "replace") {
    const Bound bound(name, arguments, {"old", "new", "count"});
    return heap.text(replaced(heap, text, bound.text(0), bound.text(1), bound.integer(2, -1)));
  }
  if (name == "indent") return heap.text(indented(heap, text, arguments));
  const Bound none(name, arguments, {});
  if (name == "upper") return heap.text(with_case(text, Case::upper));
  if (name == "lower") return heap.text(with_case(text, Case::lower));
  if (name == "capitalize") return heap.text(capitalized(text));
  if (name == "title") return heap.text(titled(text, is_no_break));
  if (name == "escape" || name == "e") return heap.text(escaped(text));
  if (name == "wordcount") {
    const Value words = heap.method(heap.text(text), "split");
    return length(call_method(heap, **as<const Method*>(words), {}));
  }
  return heap.text(text);
}

/// Filters of a list; nullopt if it is another's.
std::optional<Value> apply_list_filter(Heap& heap, std::string_view name, const Value& value,
                                       const Arguments& arguments) {
  if (name == "map") return map(heap, value, arguments);
  if (name.starts_with("select") || name.starts_with("reject")) {
    const std::string_view rest = name.substr(6);
    if (rest.empty() || rest == "attr") return select(heap, name, value, arguments);
  }
  if (name == "join") return join(heap, value, arguments);
  if (name == "sort") return sort(heap, value, arguments);
  if (name == "dictsort") return dict_sort(heap, value, arguments);
  if (name == "unique") return unique(heap, value, arguments);
  if (name == "min" || name == "max") return extreme(heap, name, value, arguments);
  if (name == "sum") return sum(heap, value, arguments);
  if (name != "reverse" && name != "list" && name != "items" && name != "first" && name != "last") {
    return std::nullopt;
  }
  const Bound none(name, arguments, {});
  if (name == "reverse") return reversed(heap, value);
  if (name == "items") {
    if (is_undefined(value)) return heap.list({});
    dict_of("items", value);
    return call_method(heap, {value, "items"}, {});
  }
  std::vector<Value> items = iterate(heap, value);
  if (name == "list") return heap.list(std::move(items));
  if (items.empty()) return Undefined{"an item"};
  return name == "first" ? items.front() : items.back();
}

}  // namespace

Value apply_filter(Heap& heap, std::string_view name, const Value& value,
                   const Arguments& arguments) {
  heap.spend(1);
  if (name == "default" || name == "d") return default_value(heap, value, arguments);
  if (const auto made = apply_text_filter(heap, name, value, arguments)) return *made;
  if (const auto made = apply_list_filter(heap, name, value, arguments)) return *made;
  if (name == "tojson") return json(heap, value, arguments);
  if (name == "int") return to_integer(value, arguments);
  if (name == "round") return rounded(value, arguments);
  if (name == "attr") return attribute(heap, value, name_argument("attr", arguments));
  if (name == "float") {
    const Bound bound(name, arguments, {"default"});
    const auto number = spelled_number(value);
    return number ? Value(*number) : bound.get(0, 0.0);
  }
  if (name == "length" || name == "count") {
    const Bound none(name, arguments, {});
    if (as_text(value) != nullptr) heap.spend(weight(value));
    return length(value);
  }
  if (name == "abs") {
    const Bound none(name, arguments, {});
    return absolute(value);
  }
  throw Fault("the filter '" + std::string(name) + "' is not known here");
}

}  // namespace vga::jinja
