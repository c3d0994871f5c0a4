#include "chat/json.h"

#include <algorithm>
#include <cmath>

namespace vga::jinja {
namespace {

class JsonWriter {
 public:
  explicit JsonWriter(const JsonLayout& layout) : layout_(layout) {}

  void write(const Value& value, size_t level) {
    if (const MarkedText* text = as_text(value)) {
      string(*text);
    } else if (const List* list = as_list(value)) {
      put("[");
      for (size_t i = 0; i < list->items.size(); ++i) {
        separate(i, level + 1);
        write(list->items[i], level + 1);
      }
      close(list->items.empty(), level, "]");
    } else if (const Dict* dict = as_dict(value)) {
      object(*dict, level);
    } else if (const bool* yes = as<bool>(value)) {
      put(*yes ? "true" : "false");
    } else if (is_none(value)) {
      put("null");
    } else if (const double* number = as<double>(value)) {
      put(std::isnan(*number)   ? "NaN"
          : std::isinf(*number) ? (*number < 0 ? "-Infinity" : "Infinity")
                                : float_text(*number));
    } else if (as<int64_t>(value) != nullptr) {
      out_.append(to_text(value));
    } else {
      throw Fault("'tojson' cannot write " + std::string(type_name(value)));
    }
  }

  MarkedText take() { return std::move(out_); }

 private:
  void put(std::string_view text) { out_.append(text, false); }

  void new_line(size_t level) {
    if (layout_.indent) put("\n" + std::string(level * *layout_.indent, ' '));
  }

  void separate(size_t i, size_t level) {
    if (i > 0) {
      const std::string_view separator = layout_.item_separator;
      put(layout_.indent && separator == ", " ? "," : separator);
    }
    new_line(level);
  }

  void close(bool empty, size_t level, std::string_view bracket) {
    if (!empty) new_line(level);
    put(bracket);
  }

  void object(const Dict& dict, size_t level) {
    auto items = dict.items;
    if (layout_.sorts_keys) {
      std::ranges::stable_sort(
          items, [](const auto& a, const auto& b) { return compare(a.first, b.first) < 0; });
    }
    put("{");
    for (size_t i = 0; i < items.size(); ++i) {
      separate(i, level + 1);
      key(items[i].first);
      put(layout_.key_separator);
      write(items[i].second, level + 1);
    }
    close(items.empty(), level, "}");
  }

  void key(const Value& value) {
    const MarkedText* text = as_text(value);
    if (text == nullptr) throw Fault("'tojson' wanted texts as keys");
    string(*text);
  }

  void escaped(uint32_t unit, bool marked) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text = "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) text += digits[unit >> shift & 15];
    out_.append(text, marked);
  }

  void string(const MarkedText& text) {
    constexpr std::string_view special = "\"\"\\\\\nn\rr\tt\bb\ff";
    put("\"");
    const std::vector<size_t> at = character_offsets(text.chars());
    for (size_t i = 0; i + 1 < at.size(); ++i) {
      const std::string_view character = text.chars().substr(at[i], at[i + 1] - at[i]);
      const bool marked = text.from_message(at[i]);
      size_t known = 0;
      while (known < special.size() && special[known] != character[0]) known += 2;
      const uint32_t c = code_point(character);
      if (known < special.size()) {
        out_.append("\\" + std::string(1, special[known + 1]), marked);
      } else if (c >= 0x20 && (!layout_.ascii || c < 0x7F)) {
        out_.append(character, marked);
      } else if (c < 0x10000) {
        escaped(c, marked);
      } else {
        escaped(0xD800 + ((c - 0x10000) >> 10), marked);
        escaped(0xDC00 + ((c - 0x10000) & 0x3FF), marked);
      }
    }
    put("\"");
  }

  const JsonLayout& layout_;
  MarkedText out_;
};

}  // namespace

MarkedText to_json(const Value& value, const JsonLayout& layout) {
  JsonWriter writer(layout);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace vga::jinja
