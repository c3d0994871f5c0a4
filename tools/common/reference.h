#pragma once

#include <string>

#include <CLI/CLI.hpp>

/// What an installation has besides a program's --help, made of the same options.
namespace vga {

/// The program's manual page in roff, for section 1. `name` is "vga-generate".
std::string man_page(const CLI::App& app, const std::string& name, const std::string& version);

/// Completion of its options for `shell`, which is bash, zsh or fish: what choices they have, and
/// files behind those that take one.
std::string completion(const CLI::App& app, const std::string& name, const std::string& shell);

}  // namespace vga
