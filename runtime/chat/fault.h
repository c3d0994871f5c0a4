#pragma once

#include <stdexcept>
#include <string>

namespace vga::jinja {

/// What is wrong with a template, or what it uses that is not known here. Becomes an Error where
/// the file's name is known.
class Fault : public std::runtime_error {
 public:
  explicit Fault(const std::string& what, size_t at_line = 0)
      : std::runtime_error(what), line(at_line) {}

  size_t line;  // from 1; 0 while it is not known
};

/// raise_exception() of a template: it does not want this conversation.
class Refused : public Fault {
 public:
  using Fault::Fault;
};

}  // namespace vga::jinja
