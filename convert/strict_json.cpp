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

/// Refuses what nlohmann-json would take silently. A pass of its own: with a callback to hear of
/// all values its parser goes through an array again at each object that ends in it.
class Watch : public nlohmann::json_sax<json> {
 public:
  Watch(std::string_view where, size_t max_values) : where_(where), max_values_(max_values) {}

  bool null() override { return count(); }
  bool boolean(bool) override { return count(); }
  bool number_integer(number_integer_t) override { return count(); }
  bool number_unsigned(number_unsigned_t) override { return count(); }
  bool number_float(number_float_t, const string_t&) override { return count(); }
  bool string(string_t&) override { return count(); }
  bool binary(binary_t&) override { return count(); }
  bool start_array(size_t) override { return open() && count(); }
  bool end_array() override { return close(); }
  bool start_object(size_t) override {
    keys_.emplace_back();
    return open() && count();
  }
  bool end_object() override {
    keys_.pop_back();
    return close();
  }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) {
      throw Error(where_, "key '" + shortened(name) + "' stands twice in one object");
    }
    return count();
  }
  /// json::parse() says the same by an exception.
  bool parse_error(size_t, const std::string&, const json::exception&) override { return false; }

 private:
  bool open() {
    if (++depth_ > max_json_depth) {
      throw Error(where_, "JSON nested deeper than " + std::to_string(max_json_depth));
    }
    return true;
  }
  bool close() {
    --depth_;
    return true;
  }
  // A value costs more memory than its text.
  bool count() {
    if (++n_values_ > max_values_) {
      throw Error(where_, "more than " + std::to_string(max_values_) + " JSON values");
    }
    return true;
  }

  std::string_view where_;
  size_t max_values_;
  size_t n_values_ = 0;
  int depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

}  // namespace

json parse_json(std::span<const std::byte> bytes, std::string_view where, size_t max_values) {
  const auto* begin = reinterpret_cast<const char*>(bytes.data());
  const auto* end = begin + bytes.size();
  if (const auto* nul = std::find(begin, end, '\0'); nul != end) {
    throw Error(where, "not JSON: a NUL byte at offset " + std::to_string(nul - begin));
  }
  Watch watch(where, max_values);
  try {
    json::sax_parse(begin, end, &watch);
    return json::parse(begin, end);
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
