#include "strict_json.h"

#include <algorithm>
#include <string>
#include <unordered_set>
#include <vector>

#include "vga/error.h"

namespace vga {
namespace {

using nlohmann::json;

constexpr int max_json_depth = 64;

std::string shortened(std::string text) {
  constexpr size_t max_length = 120;
  if (text.size() <= max_length) return text;
  size_t cut = max_length;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
  return text.substr(0, cut) + "...";
}

}  // namespace

// A value costs more memory than its text, so there is a limit.
json parse_json(std::span<const std::byte> bytes, std::string_view where, size_t max_values) {
  const auto* begin = reinterpret_cast<const char*>(bytes.data());
  const auto* end = begin + bytes.size();
  if (const auto* nul = std::find(begin, end, '\0'); nul != end) {
    throw Error(where, "not JSON: a NUL byte at offset " + std::to_string(nul - begin));
  }
  std::vector<std::unordered_set<std::string>> open_objects;
  size_t n_values = 0;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > max_json_depth) {
      throw Error(where, "JSON nested deeper than " + std::to_string(max_json_depth));
    }
    if (++n_values > max_values) {
      throw Error(where, "more than " + std::to_string(max_values) + " JSON values");
    }
    if (event == json::parse_event_t::object_start) {
      open_objects.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      open_objects.pop_back();
    } else if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second) {
        throw Error(where, "key '" + shortened(key) + "' stands twice in one object");
      }
    }
    return true;
  };
  try {
    return json::parse(begin, end, watch);
  } catch (const json::exception& error) {
    throw Error(where, "not JSON: " + shortened(error.what()));
  }
}

json parse_python_json(std::span<const std::byte> bytes, std::string_view where) {
  std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::string text;
  text.reserve(rest.size());
  bool in_string = false;
  while (!rest.empty()) {
    size_t taken = 1;
    if (in_string) {
      in_string = rest[0] != '"';
      if (rest[0] == '\\' && rest.size() > 1) taken = 2;
    } else {
      in_string = rest[0] == '"';
      for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
        if (rest.starts_with(word)) taken = word.size();
      }
    }
    const bool is_word = taken > 2;
    text.append(is_word ? "\"" : "").append(rest.substr(0, taken)).append(is_word ? "\"" : "");
    rest.remove_prefix(taken);
  }
  return parse_json(std::as_bytes(std::span(text)), where);
}

uint64_t json_integer(const json& value, std::string_view where) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  throw Error(where, "wanted a whole number from 0 to 2^64-1, found " + describe_json(value));
}

std::string describe_json(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  return shortened(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

}  // namespace vga
