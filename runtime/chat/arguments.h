#pragma once

#include <initializer_list>
#include <optional>
#include <string_view>
#include <vector>

#include "chat/value.h"

namespace vga::jinja {

/// What a filter, test, method or function is called with.
struct Arguments {
  std::vector<Value> values;
  std::vector<std::string_view> names;  // of the last values
};

/// Arguments in the order of the parameters they are for.
class Bound {
 public:
  /// A Fault naming `callee` if there are too many, or one that no parameter is for.
  Bound(std::string_view callee, const Arguments& arguments,
        std::initializer_list<std::string_view> parameters);

  bool has(size_t i) const { return values_[i].has_value(); }
  Value get(size_t i, Value otherwise = None{}) const { return values_[i].value_or(otherwise); }
  /// A Fault if it is absent, or no text.
  const MarkedText& text(size_t i) const;
  int64_t integer(size_t i, int64_t otherwise) const;
  bool truth(size_t i, bool otherwise) const;

 private:
  std::string_view callee_;
  std::vector<std::string_view> parameters_;
  std::vector<std::optional<Value>> values_;
};

}  // namespace vga::jinja
