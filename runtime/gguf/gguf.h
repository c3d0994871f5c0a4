#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "vga/dtype.h"

namespace vga {

/// Value types of GGUF metadata, numbered as in the file.
enum class GgufType : uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64,
};
std::string_view name(GgufType type);

/// One metadata value, still encoded in the mapping. For an array, `element` and `count` describe
/// it and `bytes` are its elements; otherwise count is 1 and element == type.
struct GgufValue {
  GgufType type;
  GgufType element;
  uint64_t count;
  std::span<const std::byte> bytes;
};

/// One tensor: GGUF order of dimensions, dims[0] runs fastest (cols), unused dims are 1.
struct GgufTensor {
  std::string_view name;
  uint32_t type;  // GGUF id; may be one we cannot compute with
  uint32_t n_dims;
  std::array<uint64_t, 4> dims;
  std::span<const std::byte> data;

  /// The dimensions in use, outermost first: (rows, cols).
  std::vector<uint64_t> shape() const { return {dims.rend() - n_dims, dims.rend()}; }
};

/// A GGUF v2 or v3 file, fully validated when opened: every count, length, offset and size is
/// checked against the file before use, tensors lie back to back inside it, names are unique.
/// Nothing is copied; views are valid as long as the Gguf lives (moving it is fine).
/// The only place in the project that parses GGUF bytes.
class Gguf {
 public:
  explicit Gguf(MappedFile file);
  static Gguf open(const std::filesystem::path& path,
                   MappedFile::Access access = MappedFile::Access::map) {
    return Gguf(MappedFile(path, access));
  }

  const std::string& file_name() const { return file_.name(); }
  uint64_t file_size() const { return file_.bytes().size(); }
  /// See MappedFile::release().
  void release(std::span<const std::byte> part) const { file_.release(part); }
  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  /// Bytes after the last tensor that belong to nothing; a file with some deserves a warning.
  uint64_t trailing_bytes() const { return trailing_bytes_; }

  /// In file order.
  std::span<const std::pair<std::string_view, GgufValue>> values() const { return values_; }
  std::span<const GgufTensor> tensors() const { return tensors_; }

  const GgufValue* find(std::string_view key) const;
  const GgufTensor* find_tensor(std::string_view name) const;

  /// Typed access. nullopt when the key is absent; an Error naming file, key, wanted and found when
  /// it has another type. Any integer type is taken as an integer if the value is not negative.
  std::optional<uint64_t> integer(std::string_view key) const;
  std::optional<double> real(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string_view> string(std::string_view key) const;
  std::optional<std::vector<std::string_view>> strings(std::string_view key) const;
  std::optional<std::vector<float>> floats(std::string_view key) const;
  std::optional<std::vector<int64_t>> integers(std::string_view key) const;
  /// A u8 (or i8) array as raw bytes.
  std::optional<std::span<const std::byte>> raw(std::string_view key) const;

  /// Unwraps what the accessors above return; an Error naming file and key if it is absent.
  template <class T>
  T required(std::string_view key, std::optional<T> value) const {
    if (!value) fail_missing(key);
    return *std::move(value);
  }

 private:
  [[noreturn]] void fail_missing(std::string_view key) const;
  [[noreturn]] void fail_type(std::string_view key, std::string_view wanted,
                              const GgufValue& found) const;
  const GgufValue* array_of(std::string_view key, std::string_view wanted) const;

  MappedFile file_;
  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  uint64_t trailing_bytes_ = 0;
  std::vector<std::pair<std::string_view, GgufValue>> values_;
  std::vector<GgufTensor> tensors_;
  // Indices into the two vectors above, sorted by name.
  std::vector<uint32_t> value_order_;
  std::vector<uint32_t> tensor_order_;
};

/// Human-readable value for a table: long strings and arrays are cut, control characters escaped.
std::string describe(const GgufValue& value, size_t max_length = 60);

}  // namespace vga
