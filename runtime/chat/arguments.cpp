#include "chat/arguments.h"

#include <algorithm>

namespace vga::jinja {
namespace {

std::string quoted(std::string_view text) {
  return "'" + std::string(text) + "'";
}

}  // namespace

Bound::Bound(std::string_view callee, const Arguments& arguments,
             std::initializer_list<std::string_view> parameters)
    : callee_(callee), parameters_(parameters), values_(parameters.size()) {
  const size_t n_positional = arguments.values.size() - arguments.names.size();
  if (n_positional > parameters_.size()) {
    throw Fault(quoted(callee) + " has " + std::to_string(n_positional) + " arguments, wanted " +
                std::to_string(parameters_.size()) + " at most");
  }
  for (size_t i = 0; i < n_positional; ++i) values_[i] = arguments.values[i];
  for (size_t i = 0; i < arguments.names.size(); ++i) {
    const auto parameter = std::ranges::find(parameters_, arguments.names[i]);
    if (parameter == parameters_.end()) {
      throw Fault("the argument " + quoted(arguments.names[i]) + " of " + quoted(callee) +
                  " is not known here");
    }
    values_[static_cast<size_t>(parameter - parameters_.begin())] =
        arguments.values[n_positional + i];
  }
}

const MarkedText& Bound::text(size_t i) const {
  const MarkedText* found = values_[i] ? as_text(*values_[i]) : nullptr;
  if (found == nullptr) {
    throw Fault(quoted(callee_) + " wanted a text as " + quoted(parameters_[i]) + ", found " +
                std::string(values_[i] ? type_name(*values_[i]) : "none"));
  }
  return *found;
}

int64_t Bound::integer(size_t i, int64_t otherwise) const {
  if (!values_[i] || is_none(*values_[i])) return otherwise;
  const auto found = as_integer(*values_[i]);
  if (!found) {
    throw Fault(quoted(callee_) + " wanted an integer as " + quoted(parameters_[i]) + ", found " +
                std::string(type_name(*values_[i])));
  }
  return *found;
}

bool Bound::truth(size_t i, bool otherwise) const {
  return values_[i] ? jinja::truth(*values_[i]) : otherwise;
}

}  // namespace vga::jinja
