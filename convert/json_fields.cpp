#include "json_fields.h"

#include <cmath>

#include "strict_json.h"
#include "vga/error.h"

namespace vga {

using nlohmann::json;

namespace {

bool is_positive(const json& value) {
  return value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() > 0;
}

}  // namespace

JsonFields::JsonFields(const json& object, std::string where)
    : object_(object), where_(std::move(where)) {
  if (!object.is_object()) throw Error(where_, "wanted an object, found " + describe_json(object));
}

void JsonFields::fail(std::string_view key, std::string_view wanted) const {
  const auto found = object_.find(std::string(key));
  throw Error(where_, "key '" + std::string(key) + "': wanted " + std::string(wanted) + ", found " +
                          (found == object_.end() ? "none" : describe_json(*found)));
}

void JsonFields::fail_missing(std::string_view key) const {
  throw Error(where_, "key '" + std::string(key) + "' is missing");
}

std::string JsonFields::where(std::string_view key) const {
  return where_ + ": key '" + std::string(key) + "'";
}

const json* JsonFields::find(std::string_view key) const {
  const auto found = object_.find(std::string(key));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<size_t> JsonFields::integer(std::string_view key, size_t max) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_unsigned() || value->get<uint64_t>() < 1 || value->get<uint64_t>() > max) {
    fail(key, "a whole number from 1 to " + std::to_string(max));
  }
  return value->get<size_t>();
}

std::optional<double> JsonFields::real(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!is_positive(*value)) fail(key, "a positive number");
  return value->get<double>();
}

std::optional<bool> JsonFields::boolean(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) fail(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonFields::string(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail(key, "a string");
  return value->get<std::string>();
}

std::optional<std::vector<float>> JsonFields::reals(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) fail(key, "a list of positive numbers");
  std::vector<float> numbers;
  for (const json& number : *value) {
    if (!is_positive(number)) fail(key, "a list of positive numbers");
    numbers.push_back(number.get<float>());
  }
  return numbers;
}

std::optional<JsonFields> JsonFields::fields(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  return JsonFields(*value, where(key));
}

}  // namespace vga
