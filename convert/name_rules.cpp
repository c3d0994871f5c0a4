#include "name_rules.h"

#include <algorithm>
#include <array>

#include "vga/error.h"

namespace vga {
namespace {

// std::regex recurses once per character: long names would overflow the stack.
constexpr size_t max_name = 512;

/// Parts of names that say how a module was wrapped, not what it is: by torch.compile, by
/// activation checkpointing, FSDP, DDP, and by PEFT around what an adapter was merged into.
constexpr std::array<std::string_view, 5> wrappers = {
    "_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "module.", "base_layer."};

void check_length(const std::string& name) {
  if (name.size() <= max_name) return;
  throw Error("tensor '" + name.substr(0, 64) + "...'",
              "a name of " + std::to_string(name.size()) + " bytes is too long for a regex");
}

std::regex compile(const std::string& pattern, const std::string& where) {
  if (pattern.size() > max_name) throw Error(where, "the regex is too long");
  try {
    return std::regex(pattern, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw Error(where, std::string("not a regular expression: ") + error.what());
  }
}

}  // namespace

Rename::Rename(std::string_view text) : text_(text) {
  const std::string where = "--rename '" + text_ + "'";
  const size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0) {
    throw Error(where, "wanted REGEX=REPLACEMENT");
  }
  regex_ = compile(std::string(text.substr(0, equals)), where);
  replacement_ = text.substr(equals + 1);
}

std::string Rename::apply(const std::string& name) const {
  try {
    return std::regex_replace(name, regex_, replacement_);
  } catch (const std::regex_error& error) {
    throw Error("--rename '" + text_ + "'", "cannot match '" + name + "': " + error.what());
  }
}

Skip::Skip(std::string_view text) : text_(text), regex_(compile(text_, "--skip '" + text_ + "'")) {}

bool Skip::matches(const std::string& name) const {
  check_length(name);
  try {
    return std::regex_search(name, regex_);
  } catch (const std::regex_error& error) {
    throw Error("--skip '" + text_ + "'", "cannot match '" + name + "': " + error.what());
  }
}

std::string unwrapped_name(std::string_view given) {
  std::string name;
  while (!given.empty()) {
    const size_t dot = given.find('.');
    const std::string_view part = given.substr(0, dot == given.npos ? dot : dot + 1);
    if (std::ranges::find(wrappers, part) == wrappers.end()) name += part;
    given.remove_prefix(part.size());
  }
  return name;
}

std::string renamed(std::string name, const std::vector<Rename>& renames) {
  for (const Rename& rename : renames) {
    check_length(name);
    name = rename.apply(name);
  }
  return name;
}

}  // namespace vga
