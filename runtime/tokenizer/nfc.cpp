#include "tokenizer/nfc.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include <utf8proc.h>

#include "vga/error.h"

namespace vga {
namespace {

constexpr size_t max_marks = 1000;  // in a row

const utf8proc_uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

void append_nfc(std::string& out, std::string_view text) {
  if (text.empty()) return;
  utf8proc_uint8_t* made = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t size =
      utf8proc_map(bytes_of(text), static_cast<utf8proc_ssize_t>(text.size()), &made, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(made, std::free);
  if (size == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
  if (size < 0) {
    throw Error("text", std::string("cannot be normalized: ") + utf8proc_errmsg(size));
  }
  out.append(reinterpret_cast<const char*>(made), static_cast<size_t>(size));
}

}  // namespace

bool is_surely_nfc(std::string_view text) {
  // U+0300, the first character that could join the one before it, starts with this byte.
  return std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) >= 0xCC; });
}

std::string nfc(std::string_view text) {
  std::string out;
  size_t marks = 0;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t code = 0;
    const utf8proc_ssize_t size = utf8proc_iterate(
        bytes_of(text) + at, static_cast<utf8proc_ssize_t>(text.size() - at), &code);
    if (size <= 0) throw Error("text", "cannot be normalized: it is not UTF-8");
    at += static_cast<size_t>(size);
    marks = utf8proc_get_property(code)->combining_class != 0 ? marks + 1 : 0;
    if (marks < max_marks) continue;
    append_nfc(out, text.substr(begin, at - begin));
    begin = at;
    marks = 0;
  }
  append_nfc(out, text.substr(begin));
  return out;
}

}  // namespace vga
