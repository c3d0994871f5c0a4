#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "gguf/gguf.h"
#include "vga/dtype.h"

namespace vga {

/// Collects metadata and tensor shapes, then streams a GGUF v3 file: add..., begin(), then the
/// data of each tensor in the order added. Sizes are known before the first data byte is written.
class GgufWriter {
 public:
  /// Another alignment of the tensors than 32 needs the key `general.alignment`, too.
  explicit GgufWriter(uint64_t alignment = 32) : alignment_(alignment) {}

  void add(std::string_view key, uint32_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, std::span<const std::string> values);
  void add(std::string_view key, std::span<const float> values);
  void add(std::string_view key, std::span<const int32_t> values);
  void add(std::string_view key, std::span<const std::byte> values);
  void add(std::string_view key, const std::vector<bool>& values);
  /// A value of another file as it is.
  void add(std::string_view key, const GgufValue& value);
  /// Declares a tensor; `shape` ends with its columns, which run fastest.
  void add_tensor(std::string_view name, DType type, std::span<const uint64_t> shape);
  /// Declares a tensor of another file as it is.
  void add_tensor(const GgufTensor& tensor);

  /// Bytes of the finished file.
  uint64_t file_size() const;
  /// Writes header, metadata and tensor table, padded to where the data begins.
  void begin(OutputFile& out) const;
  /// Writes the padding that belongs behind a tensor; call after the data of each one.
  void pad(OutputFile& out) const;

 private:
  void put_key(std::string_view key, GgufType type);
  void put_array(std::string_view key, GgufType element, uint64_t count);
  void put_tensor(std::string_view name, std::span<const uint64_t> dims, uint32_t type,
                  uint64_t bytes);

  uint64_t alignment_;
  uint64_t n_values_ = 0;
  uint64_t n_tensors_ = 0;
  std::string values_;   // encoded metadata
  std::string tensors_;  // encoded tensor table
  uint64_t data_size_ = 0;
};

}  // namespace vga
