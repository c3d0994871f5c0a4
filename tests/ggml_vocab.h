#pragma once

#include <filesystem>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/file.h"
#include "vga/token.h"

namespace vga::test {

/// Calls check(text, ids) for every text that llama.cpp ships beside a vocabulary file, with the
/// ids that it expects; how many there were.
template <class Check>
size_t for_each_ggml_vocab_text(const std::filesystem::path& vocabulary, Check&& check) {
  const std::string input = read_text(vocabulary.string() + ".inp");
  std::istringstream expected(read_text(vocabulary.string() + ".out"));
  constexpr std::string_view separator = "\n__ggml_vocab_test__\n";
  size_t n = 0;
  for (size_t begin = 0, end = 0; (end = input.find(separator, begin)) != std::string::npos;
       begin = end + separator.size(), ++n) {
    std::string line;
    if (!std::getline(expected, line)) {
      ADD_FAILURE() << vocabulary << ".out has no line for text " << n;
      return n;
    }
    std::istringstream numbers(line);
    const std::vector<Token> ids{std::istream_iterator<Token>(numbers), {}};
    check(input.substr(begin, end - begin), ids);
  }
  return n;
}

}  // namespace vga::test
