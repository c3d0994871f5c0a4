#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace vga {

/// Thrown for everything that is wrong with what we were given: a file, an argument, the machine.
/// `where` names the file, key or tensor; `what` says what was wanted and what was found. The
/// message is one line without control characters, whatever bytes the input held.
/// Our own bugs are asserts, not Errors.
class Error : public std::runtime_error {
 public:
  explicit Error(std::string_view what);
  Error(std::string_view where, std::string_view what);
};

/// Thrown when a device was lost, by a reset or because it was taken out. The sessions on it are at
/// their end, and so is the model.
class DeviceLost : public Error {
 public:
  using Error::Error;
};

/// Thrown when logits are NaN or infinite: from broken weights, or from keys and values that the
/// type of the cache cannot hold. What the session has read stays as it is.
class NotFinite : public Error {
 public:
  using Error::Error;
};

}  // namespace vga
