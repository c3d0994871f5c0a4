#include "chat/operators.h"

#include <algorithm>
#include <cmath>

#include "chat/methods.h"

namespace vga::jinja {
namespace {

[[noreturn]] void no_operator(std::string_view sign, const Value& a, const Value& b) {
  throw Fault("'" + std::string(sign) + "' is not known here for " + std::string(type_name(a)) +
              " and " + std::string(type_name(b)));
}

/// What is wrong with a value that nothing defines, or none if it is defined.
void want_defined(const Value& value) {
  if (const auto* undefined = as<Undefined>(value)) {
    throw Fault("'" + std::string(undefined->name) + "' is undefined");
  }
}

Value integer_arithmetic(std::string_view sign, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflows = false;
  if (sign == "+") {
    overflows = __builtin_add_overflow(a, b, &result);
  } else if (sign == "-") {
    overflows = __builtin_sub_overflow(a, b, &result);
  } else if (sign == "*") {
    overflows = __builtin_mul_overflow(a, b, &result);
  } else {
    if (b == 0) throw Fault("a division by zero");
    if (sign == "/") return static_cast<double>(a) / static_cast<double>(b);
    if (b == -1) {  // the smallest number has no negative
      overflows = sign == "//" && __builtin_sub_overflow(int64_t{0}, a, &result);
    } else {
      // Python rounds down, and a remainder has the sign of what one divides by.
      const int64_t remainder = a % b;
      const bool down = remainder != 0 && (remainder < 0) != (b < 0);
      result = sign == "%" ? remainder + (down ? b : 0) : a / b - (down ? 1 : 0);
    }
  }
  if (overflows) throw Fault("an integer is too large");
  return result;
}

Value real_arithmetic(std::string_view sign, double a, double b) {
  if (sign == "+") return a + b;
  if (sign == "-") return a - b;
  if (sign == "*") return a * b;
  if (b == 0) throw Fault("a division by zero");
  if (sign == "/") return a / b;
  if (sign == "//") return std::floor(a / b);
  const double remainder = std::fmod(a, b);
  return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

/// The indices that begin:end:step means in a sequence of n, as Python has it.
std::vector<size_t> slice_indices(Heap& heap, size_t n, const Value& begin, const Value& end,
                                  const Value& step) {
  const auto bound = [](const Value& value, int64_t otherwise) {
    if (is_none(value)) return otherwise;
    const auto number = as_integer(value);
    if (!number) throw Fault("wanted integers in '[:]', found " + std::string(type_name(value)));
    return *number;
  };
  const auto size = static_cast<int64_t>(n);
  const int64_t stride = bound(step, 1);
  if (stride == 0) throw Fault("a slice has step 0");
  const auto placed = [&](int64_t at) {
    if (at < 0) at = at < -size ? -1 : at + size;
    return stride < 0 ? std::min(at, size - 1) : std::clamp<int64_t>(at, 0, size);
  };
  int64_t from = is_none(begin) ? (stride < 0 ? size - 1 : 0) : placed(bound(begin, 0));
  const int64_t to = is_none(end) ? (stride < 0 ? -1 : size) : placed(bound(end, 0));
  std::vector<size_t> indices;
  while (stride < 0 ? from > to : from < to) {
    indices.push_back(static_cast<size_t>(from));
    if (stride > size || stride < -size) break;
    from += stride;
  }
  heap.spend(indices.size());
  return indices;
}

}  // namespace

Value arithmetic(Heap& heap, std::string_view sign, const Value& a, const Value& b) {
  want_defined(a);
  want_defined(b);
  const auto integer_a = as_integer(a);
  const auto integer_b = as_integer(b);
  if (integer_a && integer_b) return integer_arithmetic(sign, *integer_a, *integer_b);
  const auto number_a = as_number(a);
  const auto number_b = as_number(b);
  if (number_a && number_b) return real_arithmetic(sign, *number_a, *number_b);
  if (sign == "+" && as_text(a) != nullptr && as_text(b) != nullptr) {
    MarkedText sum = *as_text(a);
    sum.append(*as_text(b));
    return heap.text(std::move(sum));
  }
  if (sign == "+" && as_list(a) != nullptr && as_list(b) != nullptr &&
      as_list(a)->is_tuple == as_list(b)->is_tuple) {
    std::vector<Value> items = as_list(a)->items;
    items.insert(items.end(), as_list(b)->items.begin(), as_list(b)->items.end());
    return heap.list(std::move(items), as_list(a)->is_tuple);
  }
  if (sign == "*" && as_text(a) != nullptr && integer_b) {
    MarkedText product;
    for (int64_t i = 0; i < *integer_b; ++i) {
      heap.spend(weight(a));
      product.append(*as_text(a));
    }
    return heap.text(std::move(product));
  }
  no_operator(sign, a, b);
}

bool comparison(Heap& heap, std::string_view sign, const Value& a, const Value& b) {
  if (sign == "==" || sign == "!=") {
    heap.spend(std::min(weight(a), weight(b)));
    return equal(a, b) == (sign == "==");
  }
  heap.spend(weight(a) + weight(b));
  if (sign == "in" || sign == "not in") return contains(b, a) == (sign == "in");
  want_defined(a);
  want_defined(b);
  const int order = compare(a, b);
  if (sign == "<") return order < 0;
  if (sign == "<=") return order <= 0;
  return sign == ">" ? order > 0 : order >= 0;
}

Value negated(const Value& value) {
  want_defined(value);
  if (const auto integer = as_integer(value)) return integer_arithmetic("-", 0, *integer);
  if (const auto number = as_number(value)) return -*number;
  throw Fault("'-' is not known here for " + std::string(type_name(value)));
}

Value attribute(Heap& heap, const Value& of, std::string_view name) {
  want_defined(of);
  if (const auto* space = as<Dict*>(of)) {
    const Value* found = (*space)->find(name);
    return found != nullptr ? *found : Undefined{name};
  }
  if (has_method(of, name)) return heap.method(of, name);
  if (const Dict* dict = as_dict(of)) {
    heap.spend(dict->items.size() / 16);
    if (const Value* found = dict->find(name)) return *found;
  }
  return Undefined{name};
}

Value item(Heap& heap, const Value& of, const Value& key) {
  want_defined(of);
  const auto index = as_integer(key);
  const auto from_end = [&](size_t n) -> std::optional<size_t> {
    if (!index) return std::nullopt;
    const auto size = static_cast<int64_t>(n);
    const int64_t at = *index < 0 ? *index + size : *index;
    return at >= 0 && at < size ? std::optional(static_cast<size_t>(at)) : std::nullopt;
  };
  if (const List* list = as_list(of); list != nullptr && index) {
    const auto at = from_end(list->items.size());
    return at ? list->items[*at] : Undefined{"an item"};
  }
  if (const MarkedText* text = as_text(of); text != nullptr && index) {
    heap.spend(weight(of));
    const std::vector<size_t> offsets = character_offsets(text->chars());
    const auto at = from_end(offsets.size() - 1);
    return at ? heap.text(text->slice(offsets[*at], offsets[*at + 1])) : Undefined{"a character"};
  }
  if (const Dict* dict = as_dict(of)) {
    heap.spend(dict->items.size() / 16 + weight(key));
    for (const auto& [candidate, value] : dict->items) {
      if (equal(candidate, key)) return value;
    }
  }
  const MarkedText* name = as_text(key);
  return name != nullptr ? attribute(heap, of, name->chars()) : Undefined{"an item"};
}

Value slice(Heap& heap, const Value& of, const Value& begin, const Value& end, const Value& step) {
  want_defined(of);
  if (const List* list = as_list(of)) {
    std::vector<Value> items;
    for (const size_t i : slice_indices(heap, list->items.size(), begin, end, step)) {
      items.push_back(list->items[i]);
    }
    return heap.list(std::move(items), list->is_tuple);
  }
  if (const MarkedText* text = as_text(of)) {
    heap.spend(weight(of));
    const std::vector<size_t> at = character_offsets(text->chars());
    MarkedText part;
    for (const size_t i : slice_indices(heap, at.size() - 1, begin, end, step)) {
      part.append(*text, at[i], at[i + 1]);
    }
    return heap.text(std::move(part));
  }
  throw Fault("'[:]' is not known here for " + std::string(type_name(of)));
}

}  // namespace vga::jinja
