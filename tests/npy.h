#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "base/file.h"

namespace vga::test {

/// A float32 (rows, cols) array from a NumPy .npy file.
struct Npy {
  size_t rows = 0;
  size_t cols = 0;
  std::vector<float> values;

  explicit Npy(const std::filesystem::path& path) {
    const std::string bytes = read_text(path);
    uint16_t length = 0;
    std::memcpy(&length, bytes.data() + 8, 2);
    const std::string header = bytes.substr(10, length);
    const size_t shape = header.find('(');
    if (header.find("'<f4'") == std::string::npos || shape == std::string::npos ||
        std::sscanf(header.c_str() + shape, "(%zu, %zu)", &rows, &cols) != 2) {
      throw std::runtime_error(path.string() + ": not float32 (rows, cols)");
    }
    values.resize(rows * cols);
    if (bytes.size() != 10u + length + 4 * values.size()) {
      throw std::runtime_error(path.string() + ": wrong size");
    }
    std::memcpy(values.data(), bytes.data() + 10 + length, 4 * values.size());
  }
};

}  // namespace vga::test
