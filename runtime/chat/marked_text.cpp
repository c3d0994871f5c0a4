#include "chat/marked_text.h"

#include <algorithm>

#include <utf8proc.h>

#include "base/text.h"

namespace vga::jinja {
namespace {

size_t character_size(std::string_view text) {
  const int length = utf8_length(text);
  return length > 0 ? static_cast<size_t>(length) : 1;
}

/// Bytes of the character that `text` ends with; it is not empty.
size_t last_character_size(std::string_view text) {
  for (size_t n = 1; n <= std::min<size_t>(4, text.size()); ++n) {
    const std::string_view end = text.substr(text.size() - n);
    if (static_cast<size_t>(std::max(utf8_length(end), 0)) == n) return n;
  }
  return 1;
}

/// `text` without the characters at its ends that `drops` says.
template <class Drops>
Range strip(std::string_view text, bool left, bool right, Drops drops) {
  Range range = {0, text.size()};
  const auto rest = [&] { return text.substr(range.begin, range.end - range.begin); };
  while (left && !rest().empty()) {
    const size_t n = character_size(rest());
    if (!drops(rest().substr(0, n))) break;
    range.begin += n;
  }
  while (right && !rest().empty()) {
    const size_t n = last_character_size(rest());
    if (!drops(rest().substr(rest().size() - n))) break;
    range.end -= n;
  }
  return range;
}

}  // namespace

bool MarkedText::from_message(size_t at) const {
  const auto run =
      std::ranges::upper_bound(runs_, at, {}, [](const Run& candidate) { return candidate.end; });
  return run != runs_.end() && run->from_message;
}

void MarkedText::append(std::string_view text, bool from_message) {
  if (text.empty()) return;
  chars_ += text;
  if (!runs_.empty() && runs_.back().from_message == from_message) {
    runs_.back().end = chars_.size();
  } else {
    runs_.push_back({chars_.size(), from_message});
  }
}

void MarkedText::append(const MarkedText& text, size_t begin, size_t end) {
  if (&text == this) {
    append(text.slice(begin, end));
    return;
  }
  auto run = std::ranges::upper_bound(text.runs_, begin, {},
                                      [](const Run& candidate) { return candidate.end; });
  for (size_t at = begin; at < end; ++run) {
    const size_t stop = std::min(end, run->end);
    append(text.chars().substr(at, stop - at), run->from_message);
    at = stop;
  }
}

MarkedText MarkedText::slice(size_t begin, size_t end) const {
  MarkedText part;
  part.append(*this, begin, end);
  return part;
}

std::vector<size_t> character_offsets(std::string_view text) {
  std::vector<size_t> offsets = {0};
  for (size_t at = 0; at < text.size();) {
    at += character_size(text.substr(at));
    offsets.push_back(at);
  }
  return offsets;
}

uint32_t code_point(std::string_view text) {
  utf8proc_int32_t c = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto size = static_cast<utf8proc_ssize_t>(text.size());
  return utf8proc_iterate(bytes, size, &c) > 0 ? static_cast<uint32_t>(c) : 0xFFFD;
}

bool is_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

Range strip_spaces(std::string_view text, bool left, bool right) {
  return strip(text, left, right, [](std::string_view c) { return is_space(code_point(c)); });
}

Range strip_characters(std::string_view text, std::string_view drop, bool left, bool right) {
  const std::vector<size_t> at = character_offsets(drop);
  return strip(text, left, right, [&](std::string_view c) {
    for (size_t i = 0; i + 1 < at.size(); ++i) {
      if (drop.substr(at[i], at[i + 1] - at[i]) == c) return true;
    }
    return false;
  });
}

MarkedText with_case(const MarkedText& text, Case to) {
  MarkedText out;
  const std::vector<size_t> at = character_offsets(text.chars());
  for (size_t i = 0; i + 1 < at.size(); ++i) {
    const std::string_view character = text.chars().substr(at[i], at[i + 1] - at[i]);
    const auto c = static_cast<utf8proc_int32_t>(code_point(character));
    const auto changed = to == Case::upper ? utf8proc_toupper(c) : utf8proc_tolower(c);
    std::string spelled;
    if (c == 0xDF && to == Case::upper) {  // the one common letter that becomes two
      spelled = "SS";
    } else {
      append_utf8(spelled, static_cast<uint32_t>(changed));
    }
    out.append(changed == c ? character : std::string_view(spelled), text.from_message(at[i]));
  }
  return out;
}

bool is_letter(uint32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

}  // namespace vga::jinja
