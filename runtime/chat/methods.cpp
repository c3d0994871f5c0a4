#include "chat/methods.h"

#include <algorithm>
#include <limits>

namespace vga::jinja {
namespace {

// What Python has; those that are not known here are refused when they are called.
constexpr std::string_view text_methods =
    " capitalize count endswith find format index isalnum isalpha isdigit islower isspace isupper "
    "join ljust lower lstrip partition removeprefix removesuffix replace rfind rindex rjust "
    "rpartition rsplit rstrip split splitlines startswith strip title upper zfill ";
constexpr std::string_view list_methods =
    " append count extend index insert pop remove reverse sort ";
constexpr std::string_view dict_methods = " clear copy get items keys pop update values ";

constexpr int64_t no_limit = std::numeric_limits<int64_t>::max();

bool is_in(std::string_view names, std::string_view name) {
  return names.find(" " + std::string(name) + " ") != std::string_view::npos;
}

[[noreturn]] void not_known(const Value& of, std::string_view name) {
  throw Fault("the method '" + std::string(name) + "' of " + std::string(type_name(of)) +
              " is not known here");
}

/// How many characters stand before byte `at`.
int64_t characters_before(std::string_view text, size_t at) {
  return static_cast<int64_t>(character_offsets(text.substr(0, at)).size()) - 1;
}

/// The stretches without spaces, at most `limit` + 1 of them.
std::vector<Value> split_at_spaces(Heap& heap, const MarkedText& text, int64_t limit) {
  std::vector<Value> parts;
  const std::vector<size_t> at = character_offsets(text.chars());
  const size_t n = at.size() - 1;
  const auto is_space_at = [&](size_t i) {
    return is_space(code_point(text.chars().substr(at[i])));
  };
  for (size_t i = 0; true;) {
    while (i < n && is_space_at(i)) ++i;
    if (i == n) return parts;
    size_t end = i;
    if (limit-- == 0) {
      const Range rest = strip_spaces(text.chars(), false, true);
      parts.push_back(heap.text(text.slice(at[i], rest.end)));
      return parts;
    }
    while (end < n && !is_space_at(end)) ++end;
    parts.push_back(heap.text(text.slice(at[i], at[end])));
    i = end;
  }
}

std::vector<Value> split_at(Heap& heap, const MarkedText& text, std::string_view separator,
                            int64_t limit, bool from_end) {
  std::vector<std::pair<size_t, size_t>> pieces;
  const std::string_view chars = text.chars();
  size_t begin = 0;
  size_t end = chars.size();
  while (limit-- > 0) {
    const size_t found =
        from_end ? (end >= separator.size() ? chars.rfind(separator, end - separator.size())
                                            : std::string_view::npos)
                 : chars.find(separator, begin);
    if (found == std::string_view::npos) break;
    if (from_end) {
      pieces.emplace_back(found + separator.size(), end);
      end = found;
    } else {
      pieces.emplace_back(begin, found);
      begin = found + separator.size();
    }
  }
  pieces.emplace_back(begin, end);
  if (from_end) std::ranges::reverse(pieces);
  std::vector<Value> parts;
  for (const auto& [from, to] : pieces) parts.push_back(heap.text(text.slice(from, to)));
  return parts;
}

Value split(Heap& heap, const MarkedText& text, const Method& method, const Arguments& arguments) {
  const Bound bound(method.name, arguments, {"sep", "maxsplit"});
  const int64_t asked = bound.integer(1, -1);
  const int64_t limit = asked < 0 ? no_limit : asked;
  const bool from_end = method.name == "rsplit";
  if (is_none(bound.get(0))) {
    if (from_end && limit != no_limit) not_known(&text, "rsplit(None, n)");
    return heap.list(split_at_spaces(heap, text, limit));
  }
  const std::string_view separator = bound.text(0).chars();
  if (separator.empty()) throw Fault("'split' wanted a text that is not empty");
  return heap.list(split_at(heap, text, separator, limit, from_end));
}

Value split_lines(Heap& heap, const MarkedText& text, const Arguments& arguments) {
  const bool keeps = Bound("splitlines", arguments, {"keepends"}).truth(0, false);
  std::vector<Value> lines;
  const std::string_view chars = text.chars();
  for (size_t begin = 0; begin < chars.size();) {
    const size_t end = std::min(chars.find_first_of("\n\r\v\f\x1c\x1d\x1e", begin), chars.size());
    const size_t next = end + (chars.substr(end).starts_with("\r\n") ? 2
                               : end < chars.size()                  ? 1
                                                                     : 0);
    lines.push_back(heap.text(text.slice(begin, keeps ? next : end)));
    begin = next;
  }
  return heap.list(std::move(lines));
}

Value partitioned(Heap& heap, const MarkedText& text, const Method& method,
                  const Arguments& arguments) {
  const MarkedText& separator = Bound(method.name, arguments, {"sep"}).text(0);
  if (separator.empty()) throw Fault("'partition' wanted a text that is not empty");
  const bool from_end = method.name == "rpartition";
  const size_t at =
      from_end ? text.chars().rfind(separator.chars()) : text.chars().find(separator.chars());
  const Value none = heap.text(MarkedText());
  if (at == std::string_view::npos) {
    const Value all = heap.text(text);
    return from_end ? heap.list({none, none, all}, true) : heap.list({all, none, none}, true);
  }
  const size_t behind = at + separator.size();
  return heap.list({heap.text(text.slice(0, at)), heap.text(text.slice(at, behind)),
                    heap.text(text.slice(behind, text.size()))},
                   true);
}

/// startswith, endswith: with one text or a tuple of them.
bool has_end(const MarkedText& text, const Method& method, const Arguments& arguments) {
  const Bound bound(method.name, arguments, {"prefix"});
  const auto fits = [&](const Value& value) {
    const MarkedText* part = as_text(value);
    if (part == nullptr) throw Fault("'" + std::string(method.name) + "' wanted a text");
    return method.name == "startswith" ? text.chars().starts_with(part->chars())
                                       : text.chars().ends_with(part->chars());
  };
  const Value wanted = bound.get(0);
  const List* list = as_list(wanted);
  return list != nullptr ? std::ranges::any_of(list->items, fits) : fits(wanted);
}

Value found(const MarkedText& text, const Method& method, const Arguments& arguments) {
  const std::string_view part = Bound(method.name, arguments, {"sub"}).text(0).chars();
  const bool from_end = method.name[0] == 'r';
  const size_t at = from_end ? text.chars().rfind(part) : text.chars().find(part);
  if (at != std::string_view::npos) return characters_before(text.chars(), at);
  if (method.name.ends_with("index"))
    throw Fault("'" + std::string(method.name) + "' found nothing");
  return int64_t{-1};
}

int64_t counted(const MarkedText& text, const Arguments& arguments) {
  const std::string_view part = Bound("count", arguments, {"sub"}).text(0).chars();
  if (part.empty()) return characters_before(text.chars(), text.size()) + 1;
  int64_t n = 0;
  for (size_t at = 0; (at = text.chars().find(part, at)) != std::string_view::npos;
       at += part.size()) {
    ++n;
  }
  return n;
}

MarkedText without_end(const MarkedText& text, const Method& method, const Arguments& arguments) {
  const std::string_view part = Bound(method.name, arguments, {"part"}).text(0).chars();
  if (method.name == "removeprefix" && text.chars().starts_with(part)) {
    return text.slice(part.size(), text.size());
  }
  if (method.name == "removesuffix" && text.chars().ends_with(part)) {
    return text.slice(0, text.size() - part.size());
  }
  return text;
}

/// Whether there are characters and `is` says yes to all of them.
template <class Is>
bool all_characters(const MarkedText& text, Is is) {
  const std::vector<size_t> at = character_offsets(text.chars());
  for (size_t i = 0; i + 1 < at.size(); ++i) {
    if (!is(code_point(text.chars().substr(at[i])))) return false;
  }
  return at.size() > 1;
}

/// "{} of {}".format(...), with places that say no more than which argument they are for.
MarkedText formatted(Heap& heap, const MarkedText& text, const Arguments& arguments) {
  MarkedText out;
  size_t next = 0;
  const std::string_view chars = text.chars();
  for (size_t at = 0; at < chars.size();) {
    const std::string_view rest = chars.substr(at);
    if (rest.starts_with("{{") || rest.starts_with("}}")) {
      out.append(text, at, at + 1);
      at += 2;
    } else if (rest.starts_with("{}") && next < arguments.values.size() - arguments.names.size()) {
      heap.spend(weight(arguments.values[next]));
      out.append(to_text(arguments.values[next++]));
      at += 2;
    } else if (rest[0] == '{' || rest[0] == '}') {
      throw Fault("the method 'format' of str is known here with '{}' alone");
    } else {
      const size_t end = std::min(chars.find_first_of("{}", at), chars.size());
      out.append(text, at, end);
      at = end;
    }
  }
  return out;
}

Value call_text_method(Heap& heap, const MarkedText& text, const Method& method,
                       const Arguments& arguments) {
  const std::string_view name = method.name;
  if (name.ends_with("strip")) return heap.text(stripped(text, name, arguments));
  if (name == "split" || name == "rsplit") return split(heap, text, method, arguments);
  if (name == "splitlines") return split_lines(heap, text, arguments);
  if (name.ends_with("partition")) return partitioned(heap, text, method, arguments);
  if (name == "startswith" || name == "endswith") return has_end(text, method, arguments);
  if (name.ends_with("find") || name.ends_with("index")) return found(text, method, arguments);
  if (name == "count") return counted(text, arguments);
  if (name.starts_with("remove")) return heap.text(without_end(text, method, arguments));
  if (name == "format") return heap.text(formatted(heap, text, arguments));
  if (name == "replace") {
    const Bound bound(name, arguments, {"old", "new", "count"});
    return heap.text(replaced(heap, text, bound.text(0), bound.text(1), bound.integer(2, -1)));
  }
  if (name == "join") {
    MarkedText out;
    const auto parts = iterate(heap, Bound(name, arguments, {"iterable"}).get(0));
    for (size_t i = 0; i < parts.size(); ++i) {
      const MarkedText* part = as_text(parts[i]);
      if (part == nullptr) throw Fault("'join' wanted texts");
      heap.spend(weight(parts[i]) + weight(&text));
      if (i > 0) out.append(text);
      out.append(*part);
    }
    return heap.text(std::move(out));
  }
  if (!is_in(" upper lower capitalize title isspace isalpha isdigit ", name)) {
    not_known(method.of, name);
  }
  const Bound none(name, arguments, {});
  if (name == "upper") return heap.text(with_case(text, Case::upper));
  if (name == "lower") return heap.text(with_case(text, Case::lower));
  if (name == "capitalize") return heap.text(capitalized(text));
  if (name == "title") return heap.text(titled(text, is_letter));
  if (name == "isspace") return all_characters(text, is_space);
  if (name == "isalpha") return all_characters(text, is_letter);
  return all_characters(text, [](uint32_t c) { return c >= '0' && c <= '9'; });
}

Value call_list_method(const List& list, const Method& method, const Arguments& arguments) {
  if (method.name == "index" || method.name == "count") {
    const Value wanted = Bound(method.name, arguments, {"value"}).get(0);
    const auto is_wanted = [&](const Value& item) { return equal(item, wanted); };
    if (method.name == "count") {
      return static_cast<int64_t>(std::ranges::count_if(list.items, is_wanted));
    }
    const auto at = std::ranges::find_if(list.items, is_wanted);
    if (at == list.items.end()) throw Fault("'index' found nothing");
    return static_cast<int64_t>(at - list.items.begin());
  }
  // Jinja's sandbox refuses what changes a list, too.
  throw Fault("the method '" + std::string(method.name) + "' would change a list");
}

Value call_dict_method(Heap& heap, const Dict& dict, const Method& method,
                       const Arguments& arguments) {
  if (method.name == "get") {
    const Bound bound(method.name, arguments, {"key", "default"});
    for (const auto& [key, value] : dict.items) {
      if (equal(key, bound.get(0))) return value;
    }
    return bound.get(1);
  }
  std::vector<Value> items;
  const Bound none(method.name, arguments, {});
  if (method.name == "copy") return &dict;
  if (method.name != "items" && method.name != "keys" && method.name != "values") {
    throw Fault("the method '" + std::string(method.name) + "' would change a dict");
  }
  for (const auto& [key, value] : dict.items) {
    items.push_back(method.name == "items"  ? heap.list({key, value}, true)
                    : method.name == "keys" ? key
                                            : value);
  }
  return heap.list(std::move(items));
}

}  // namespace

bool has_method(const Value& of, std::string_view name) {
  if (as_text(of) != nullptr) return is_in(text_methods, name);
  if (as_list(of) != nullptr) return is_in(list_methods, name);
  if (as_dict(of) != nullptr) return is_in(dict_methods, name);
  return false;
}

Value call_method(Heap& heap, const Method& method, const Arguments& arguments) {
  const Dict* dict = as_dict(method.of);
  heap.spend(dict != nullptr ? dict->items.size() : weight(method.of));
  for (const Value& value : arguments.values) heap.spend(weight(value));
  if (const MarkedText* text = as_text(method.of)) {
    return call_text_method(heap, *text, method, arguments);
  }
  if (const List* list = as_list(method.of)) return call_list_method(*list, method, arguments);
  return call_dict_method(heap, *dict, method, arguments);
}

MarkedText stripped(const MarkedText& text, std::string_view name, const Arguments& arguments) {
  const Bound bound(name, arguments, {"chars"});
  const bool left = name != "rstrip";
  const bool right = name != "lstrip";
  const bool spaces = is_none(bound.get(0));
  const Range range = spaces ? strip_spaces(text.chars(), left, right)
                             : strip_characters(text.chars(), bound.text(0).chars(), left, right);
  return text.slice(range.begin, range.end);
}

MarkedText replaced(Heap& heap, const MarkedText& text, const MarkedText& from,
                    const MarkedText& to, int64_t count) {
  MarkedText out;
  const std::string_view chars = text.chars();
  if (from.empty()) throw Fault("'replace' wanted a text that is not empty");
  size_t at = 0;
  for (int64_t n = 0; count < 0 || n < count; ++n) {
    const size_t found_at = chars.find(from.chars(), at);
    if (found_at == std::string_view::npos) break;
    heap.spend(weight(&to));
    out.append(text, at, found_at);
    out.append(to);
    at = found_at + from.size();
  }
  out.append(text, at, chars.size());
  return out;
}

MarkedText capitalized(const MarkedText& text) {
  if (text.empty()) return text;
  const size_t first = character_offsets(text.chars())[1];
  MarkedText out = with_case(text.slice(0, first), Case::upper);
  out.append(with_case(text.slice(first, text.size()), Case::lower));
  return out;
}

MarkedText titled(const MarkedText& text, bool (*belongs)(uint32_t)) {
  MarkedText out;
  const std::vector<size_t> at = character_offsets(text.chars());
  bool inside = false;
  for (size_t i = 0; i + 1 < at.size(); ++i) {
    const MarkedText character = text.slice(at[i], at[i + 1]);
    out.append(with_case(character, inside ? Case::lower : Case::upper));
    inside = belongs(code_point(character.chars()));
  }
  return out;
}

}  // namespace vga::jinja
