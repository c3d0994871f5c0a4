#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <regex>
#include <stdexcept>
#include <vector>

#include "file.h"

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
    std::smatch shape;
    if (header.find("'<f4'") == std::string::npos ||
        !std::regex_search(header, shape, std::regex("\\((\\d+), (\\d+)\\)"))) {
      throw std::runtime_error(path.string() + ": not float32 (rows, cols)");
    }
    rows = std::stoul(shape[1]);
    cols = std::stoul(shape[2]);
    values.resize(rows * cols);
    if (bytes.size() != 10u + length + 4 * values.size()) {
      throw std::runtime_error(path.string() + ": wrong size");
    }
    std::memcpy(values.data(), bytes.data() + 10 + length, 4 * values.size());
  }
};

}  // namespace vga::test
