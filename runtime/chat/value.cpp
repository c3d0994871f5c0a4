#include "chat/value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include <utf8proc.h>

namespace vga::jinja {
namespace {

constexpr size_t bytes_a_step = 16;
// Deeper than any conversation, and far from the end of the stack.
constexpr size_t max_value_depth = 100;
// Lists share what they hold, so one may be far longer to walk through than it was to make.
constexpr size_t max_weight = 100'000'000;

size_t depth_of(const Value& value) {
  if (const List* list = as_list(value)) return list->depth;
  if (const Dict* dict = as_dict(value)) return dict->depth;
  return 0;
}

/// Depth and weight of a list or dict that holds some values.
struct Extent {
  size_t depth = 1;
  size_t weight = 1;

  void add(const Value& value) {
    depth = std::max(depth, depth_of(value) + 1);
    weight += vga::jinja::weight(value);
    if (depth > max_value_depth || weight > max_weight)
      throw Fault("lists within lists are too deep");
  }
};

bool is_printable(uint32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return c == ' ' || (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_SO);
}

void append_escape(MarkedText& out, uint32_t c, bool marked) {
  constexpr std::string_view digits = "0123456789abcdef";
  const int n = c <= 0xFF ? 2 : c <= 0xFFFF ? 4 : 8;
  std::string text = n == 2 ? "\\x" : n == 4 ? "\\u" : "\\U";
  for (int i = n - 1; i >= 0; --i) text += digits[c >> (4 * i) & 15];
  out.append(text, marked);
}

/// A string as Python's repr() has it.
void append_quoted(MarkedText& out, const MarkedText& text) {
  const std::string_view chars = text.chars();
  const bool has_single = chars.find('\'') != std::string_view::npos;
  const char quote = has_single && chars.find('"') == std::string_view::npos ? '"' : '\'';
  const std::string_view mark(&quote, 1);
  out.append(mark, false);
  const std::vector<size_t> at = character_offsets(chars);
  for (size_t i = 0; i + 1 < at.size(); ++i) {
    const std::string_view character = chars.substr(at[i], at[i + 1] - at[i]);
    const uint32_t c = code_point(character);
    const bool marked = text.from_message(at[i]);
    if (c == '\n') {
      out.append("\\n", marked);
    } else if (c == '\r') {
      out.append("\\r", marked);
    } else if (c == '\t') {
      out.append("\\t", marked);
    } else if (c == '\\' || c == static_cast<uint32_t>(quote)) {
      out.append("\\", marked);
      out.append(character, marked);
    } else if (is_printable(c)) {
      out.append(character, marked);
    } else {
      append_escape(out, c, marked);
    }
  }
  out.append(mark, false);
}

void append_repr(MarkedText& out, const Value& value) {
  if (const MarkedText* text = as_text(value)) {
    append_quoted(out, *text);
  } else if (const List* list = as_list(value)) {
    out.append(list->is_tuple ? "(" : "[", false);
    for (size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out.append(", ", false);
      append_repr(out, list->items[i]);
    }
    if (list->is_tuple && list->items.size() == 1) out.append(",", false);
    out.append(list->is_tuple ? ")" : "]", false);
  } else if (const Dict* dict = as_dict(value)) {
    out.append("{", false);
    for (size_t i = 0; i < dict->items.size(); ++i) {
      if (i > 0) out.append(", ", false);
      append_repr(out, dict->items[i].first);
      out.append(": ", false);
      append_repr(out, dict->items[i].second);
    }
    out.append("}", false);
  } else if (is_undefined(value)) {
    out.append("Undefined", false);
  } else {
    out.append(to_text(value));
  }
}

}  // namespace

const Value* Dict::find(std::string_view name) const {
  for (const auto& [key, value] : items) {
    const MarkedText* text = as_text(key);
    if (text != nullptr && text->chars() == name) return &value;
  }
  return nullptr;
}

void Heap::spend(size_t steps) {
  if (steps > steps_left_) throw Fault("takes too many steps, or makes too much text");
  steps_left_ -= steps;
}

Value Heap::text(MarkedText text) {
  spend(1 + text.size() / bytes_a_step + text.runs().size());
  return &texts_.emplace_back(std::move(text));
}

Value Heap::list(std::vector<Value> items, bool is_tuple) {
  spend(1 + items.size());
  Extent extent;
  for (const Value& item : items) extent.add(item);
  return &lists_.emplace_back(List{std::move(items), is_tuple, extent.depth, extent.weight});
}

Value Heap::dict(std::vector<std::pair<Value, Value>> items) {
  spend(1 + 2 * items.size());
  Extent extent;
  for (const auto& [key, value] : items) {
    extent.add(key);
    extent.add(value);
  }
  return static_cast<const Dict*>(
      &dicts_.emplace_back(Dict{std::move(items), extent.depth, extent.weight}));
}

Dict* Heap::name_space() {
  spend(1);
  return &dicts_.emplace_back();
}

Value Heap::method(Value of, std::string_view name) {
  spend(1);
  return &methods_.emplace_back(Method{of, name});
}

size_t weight(const Value& value) {
  if (const MarkedText* text = as_text(value)) {
    return 1 + text->size() / bytes_a_step + text->runs().size();
  }
  if (const List* list = as_list(value)) return list->weight;
  if (const Dict* dict = as_dict(value)) return dict->weight;
  return 1;
}

std::string_view type_name(const Value& value) {
  constexpr std::array<std::string_view, 12> names = {"undefined", "None",     "bool",  "int",
                                                      "float",     "str",      "list",  "dict",
                                                      "namespace", "function", "macro", "method"};
  return names[value.index()];
}

bool truth(const Value& value) {
  if (const bool* yes = as<bool>(value)) return *yes;
  if (const auto number = as_number(value)) return *number != 0;
  if (const MarkedText* text = as_text(value)) return !text->empty();
  if (const List* list = as_list(value)) return !list->items.empty();
  if (const Dict* dict = as_dict(value)) return !dict->items.empty();
  return !is_undefined(value) && !is_none(value);
}

std::optional<int64_t> as_integer(const Value& value) {
  if (const auto* number = as<int64_t>(value)) return *number;
  if (const bool* yes = as<bool>(value)) return *yes ? 1 : 0;
  return std::nullopt;
}

std::optional<double> as_number(const Value& value) {
  if (const double* number = as<double>(value)) return *number;
  if (const auto integer = as_integer(value)) return static_cast<double>(*integer);
  return std::nullopt;
}

bool equal(const Value& a, const Value& b) {
  const auto integer_a = as_integer(a);
  const auto integer_b = as_integer(b);
  if (integer_a && integer_b) return *integer_a == *integer_b;
  const auto number_a = as_number(a);
  const auto number_b = as_number(b);
  if (number_a && number_b) return *number_a == *number_b;
  if (a.index() != b.index()) return false;
  if (const MarkedText* text = as_text(a)) return text->chars() == as_text(b)->chars();
  if (const List* list = as_list(a)) {
    return list->is_tuple == as_list(b)->is_tuple &&
           std::ranges::equal(list->items, as_list(b)->items, equal);
  }
  if (const Dict* dict = as_dict(a)) {
    const Dict& other = *as_dict(b);
    return dict->items.size() == other.items.size() &&
           std::ranges::all_of(dict->items, [&](const auto& item) {
             return std::ranges::any_of(other.items, [&](const auto& candidate) {
               return equal(item.first, candidate.first) && equal(item.second, candidate.second);
             });
           });
  }
  if (const auto* space = as<Dict*>(a)) return *space == *as<Dict*>(b);
  if (const auto* macro = as<const Macro*>(a)) return *macro == *as<const Macro*>(b);
  if (const auto* function = as<Function>(a)) return function->name == as<Function>(b)->name;
  return is_undefined(a) || is_none(a);
}

int compare(const Value& a, const Value& b) {
  const auto order = [](const auto& x, const auto& y) { return x < y ? -1 : y < x ? 1 : 0; };
  if (as_text(a) != nullptr && as_text(b) != nullptr) {
    return order(as_text(a)->chars(), as_text(b)->chars());
  }
  const auto integer_a = as_integer(a);
  const auto integer_b = as_integer(b);
  if (integer_a && integer_b) return order(*integer_a, *integer_b);
  const auto number_a = as_number(a);
  const auto number_b = as_number(b);
  if (number_a && number_b) return order(*number_a, *number_b);
  throw Fault("cannot say whether " + std::string(type_name(a)) + " or " +
              std::string(type_name(b)) + " is greater");
}

bool contains(const Value& haystack, const Value& needle) {
  if (const MarkedText* text = as_text(haystack)) {
    const MarkedText* part = as_text(needle);
    if (part == nullptr) {
      throw Fault("cannot look for " + std::string(type_name(needle)) + " in a text");
    }
    return text->chars().find(part->chars()) != std::string_view::npos;
  }
  const auto is_needle = [&](const Value& item) { return equal(item, needle); };
  if (const List* list = as_list(haystack)) return std::ranges::any_of(list->items, is_needle);
  if (const Dict* dict = as_dict(haystack)) {
    return std::ranges::any_of(dict->items,
                               [&](const auto& item) { return is_needle(item.first); });
  }
  if (is_undefined(haystack)) return false;
  throw Fault("cannot look into " + std::string(type_name(haystack)));
}

int64_t length(const Value& value) {
  if (const MarkedText* text = as_text(value)) {
    return static_cast<int64_t>(character_offsets(text->chars()).size()) - 1;
  }
  if (const List* list = as_list(value)) return static_cast<int64_t>(list->items.size());
  if (const Dict* dict = as_dict(value)) return static_cast<int64_t>(dict->items.size());
  if (is_undefined(value)) return 0;
  throw Fault(std::string(type_name(value)) + " has no length");
}

std::vector<Value> iterate(Heap& heap, const Value& value) {
  std::vector<Value> items;
  if (const List* list = as_list(value)) {
    heap.spend(list->items.size());
    return list->items;
  }
  if (const Dict* dict = as_dict(value)) {
    heap.spend(dict->items.size());
    for (const auto& item : dict->items) items.push_back(item.first);
  } else if (const MarkedText* text = as_text(value)) {
    const std::vector<size_t> at = character_offsets(text->chars());
    for (size_t i = 0; i + 1 < at.size(); ++i) {
      items.push_back(heap.text(text->slice(at[i], at[i + 1])));
    }
  } else if (!is_undefined(value)) {
    throw Fault("cannot loop over " + std::string(type_name(value)));
  }
  return items;
}

std::string float_text(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  std::array<char, 32> spelled{};
  // Python takes an exponent below 1e-4 and from 1e16 on.
  const double size = std::abs(number);
  const bool exponent = size != 0 && (size < 1e-4 || size >= 1e16);
  const auto end =
      std::to_chars(spelled.data(), spelled.data() + spelled.size(), number,
                    exponent ? std::chars_format::scientific : std::chars_format::fixed)
          .ptr;
  std::string text(spelled.data(), end);
  if (!exponent && text.find('.') == std::string::npos) text += ".0";
  return text;
}

MarkedText to_text(const Value& value) {
  if (const MarkedText* text = as_text(value)) return *text;
  if (const bool* yes = as<bool>(value)) return MarkedText(*yes ? "True" : "False");
  if (const auto* number = as<int64_t>(value)) return MarkedText(std::to_string(*number));
  if (const double* number = as<double>(value)) return MarkedText(float_text(*number));
  if (is_none(value)) return MarkedText("None");
  if (is_undefined(value)) return MarkedText();
  if (as_list(value) == nullptr && as_dict(value) == nullptr) {
    throw Fault("cannot write a " + std::string(type_name(value)) + " as text");
  }
  MarkedText out;
  append_repr(out, value);
  return out;
}

}  // namespace vga::jinja
