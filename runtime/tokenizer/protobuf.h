#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace vga {

/// How protocol buffers encode a value.
enum class Wire : uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

/// Reads the fields of one message in turn. What it returns are views of `bytes`; an Error names
/// `where` and the field.
class ProtoReader {
 public:
  ProtoReader(std::string_view bytes, std::string where);

  const std::string& where() const { return where_; }
  uint32_t field() const { return field_; }

  /// Moves to the next field and reads its value; false at the end of the message.
  bool next();

  /// The value, an Error if it is of another kind.
  uint64_t number() const;
  /// proto's int32: negative numbers are stored as 64 bits.
  int32_t int32() const { return static_cast<int32_t>(static_cast<uint32_t>(number())); }
  bool boolean() const { return number() != 0; }
  float real() const;
  std::string_view bytes() const;

 private:
  [[noreturn]] void fail(const std::string& what) const;
  void expect(Wire wire, const char* wanted) const;
  uint64_t take_varint();
  std::string_view take(uint64_t n);

  std::string_view bytes_;
  std::string where_;
  uint32_t field_ = 0;
  Wire wire_ = Wire::varint;
  uint64_t number_ = 0;
  std::string_view value_;
};

/// Writes the fields of one message; a message inside another is bytes().
class ProtoWriter {
 public:
  void number(uint32_t field, uint64_t value);
  void real(uint32_t field, float value);
  void bytes(uint32_t field, std::string_view value);
  std::string take() { return std::move(out_); }

 private:
  void key(uint32_t field, Wire wire) { varint(field << 3 | static_cast<uint32_t>(wire)); }
  void varint(uint64_t value);

  std::string out_;
};

}  // namespace vga
