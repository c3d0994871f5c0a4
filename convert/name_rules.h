#pragma once

#include <regex>
#include <string>
#include <string_view>
#include <vector>

namespace vga {

/// One --rename: what matches the regex (ECMAScript) in a tensor's name is replaced, $1 is a group.
class Rename {
 public:
  /// From "REGEX=REPLACEMENT", split at the last '='. An Error if it has none or the regex is bad.
  explicit Rename(std::string_view text);

  std::string apply(const std::string& name) const;

 private:
  std::string text_;
  std::regex regex_;
  std::string replacement_;
};

/// One --skip: tensors in whose name the regex is found are left out.
class Skip {
 public:
  explicit Skip(std::string_view text);

  bool matches(const std::string& name) const;

 private:
  std::string text_;
  std::regex regex_;
};

/// What the user says about names.
struct NameRules {
  std::vector<Skip> skips;
  std::vector<Rename> renames;  // applied in order
};

/// A tensor's name in a checkpoint without the parts that training wrappers put into it
/// ("_orig_mod", "_fsdp_wrapped_module", "module"), wherever they stand.
std::string unwrapped_name(std::string_view given);

/// `name` after each of `renames`.
std::string renamed(std::string name, const std::vector<Rename>& renames);

}  // namespace vga
