#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf/gguf.h"
#include "gguf/gguf_writer.h"
#include "vga/error.h"

namespace vga {

/// The metadata of one file's family: keys without "<architecture>.", and which of them somebody
/// asked for.
class Keys {
 public:
  Keys(const Gguf& gguf, const std::string& family) : gguf_(gguf), prefix_(family + ".") {}

  const Gguf& gguf() const { return gguf_; }
  std::string key(std::string_view suffix) const { return prefix_ + std::string(suffix); }
  std::optional<uint64_t> number(std::string_view suffix) const {
    return gguf_.integer(asked(suffix));
  }
  std::optional<double> real(std::string_view suffix) const { return gguf_.real(asked(suffix)); }
  /// 0 stands for a number that is not given.
  double real_or(std::string_view suffix, double otherwise) const {
    const double found = real(suffix).value_or(0);
    return found == 0 ? otherwise : found;
  }
  std::optional<bool> boolean(std::string_view suffix) const {
    return gguf_.boolean(asked(suffix));
  }
  std::optional<std::string_view> string(std::string_view suffix) const {
    return gguf_.string(asked(suffix));
  }
  /// An array of `n` of them or more, of which the first n count.
  std::vector<bool> booleans(std::string_view suffix, size_t n) const {
    const GgufValue* array = find(suffix);
    if (array->type != GgufType::array || array->element != GgufType::boolean || array->count < n) {
      refuse(suffix, "wanted a bool for each of the " + std::to_string(n) + " layers, found " +
                         describe(*array));
    }
    std::vector<bool> values(n);
    for (size_t i = 0; i < n; ++i) values[i] = array->bytes[i] != std::byte{0};
    return values;
  }
  const GgufValue* find(std::string_view suffix) const { return gguf_.find(asked(suffix)); }
  template <class T>
  T required(std::string_view suffix, std::optional<T> value) const {
    return gguf_.required(key(suffix), std::move(value));
  }

  bool was_asked(std::string_view suffix) const { return asked_.contains(std::string(suffix)); }
  [[noreturn]] void refuse(std::string_view suffix, const std::string& what) const {
    throw Error(gguf_.file_name(), "key '" + key(suffix) + "': " + what);
  }

 private:
  std::string asked(std::string_view suffix) const {
    asked_.emplace(suffix);
    return key(suffix);
  }

  const Gguf& gguf_;
  std::string prefix_;
  mutable std::set<std::string> asked_;
};

/// Adds keys under "<architecture>.".
class KeyWriter {
 public:
  KeyWriter(GgufWriter& writer, const std::string& family)
      : writer_(writer), prefix_(family + ".") {}

  void number(std::string_view suffix, size_t value) const {
    writer_.add(key(suffix), static_cast<uint32_t>(value));
  }
  void real(std::string_view suffix, double value) const {
    writer_.add(key(suffix), static_cast<float>(value));
  }
  void boolean(std::string_view suffix, bool value) const { writer_.add(key(suffix), value); }
  void string(std::string_view suffix, std::string_view value) const {
    writer_.add(key(suffix), value);
  }
  void integers(std::string_view suffix, std::span<const int32_t> values) const {
    writer_.add(key(suffix), values);
  }
  void booleans(std::string_view suffix, const std::vector<bool>& values) const {
    writer_.add(key(suffix), values);
  }

 private:
  std::string key(std::string_view suffix) const { return prefix_ + std::string(suffix); }

  GgufWriter& writer_;
  std::string prefix_;
};

}  // namespace vga
