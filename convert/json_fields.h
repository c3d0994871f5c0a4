#pragma once

#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace vga {

/// The keys of one JSON object, typed and in range; whatever is not is an Error naming file and
/// key. A key that is null counts as absent, as in Hugging Face's files.
class JsonFields {
 public:
  /// `object` must live as long. An Error naming `where` if it is none.
  JsonFields(const nlohmann::json& object, std::string where);

  [[noreturn]] void fail(std::string_view key, std::string_view wanted) const;
  const std::string& where() const { return where_; }
  std::string where(std::string_view key) const;
  const nlohmann::json& object() const { return object_; }

  const nlohmann::json* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  /// A whole number from 1 to `max`.
  std::optional<size_t> integer(std::string_view key, size_t max) const;
  /// A positive finite number.
  std::optional<double> real(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string> string(std::string_view key) const;
  /// Positive finite numbers.
  std::optional<std::vector<float>> reals(std::string_view key) const;
  std::optional<JsonFields> fields(std::string_view key) const;

  template <class T>
  T required(std::string_view key, std::optional<T> value) const {
    if (!value) fail_missing(key);
    return *std::move(value);
  }

  /// The choice whose name() is the string at `key`.
  template <class Enum>
  Enum choice(std::string_view key, std::initializer_list<Enum> choices) const {
    const std::string found = required(key, string(key));
    std::string wanted;
    for (const Enum c : choices) {
      if (found == name(c)) return c;
      wanted += (wanted.empty() ? "" : " or ") + std::string(name(c));
    }
    fail(key, wanted);
  }

 private:
  [[noreturn]] void fail_missing(std::string_view key) const;

  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace vga
