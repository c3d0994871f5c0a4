#include "tokenizer/protobuf.h"

#include <array>
#include <cstring>

#include "vga/error.h"

namespace vga {

ProtoReader::ProtoReader(std::string_view bytes, std::string where)
    : bytes_(bytes), where_(std::move(where)) {}

bool ProtoReader::next() {
  if (bytes_.empty()) return false;
  const uint64_t key = take_varint();
  field_ = static_cast<uint32_t>(key >> 3);
  wire_ = static_cast<Wire>(key & 7);
  if (key >> 32 != 0 || field_ == 0) fail("has an invalid field number");
  switch (wire_) {
    case Wire::varint:
      number_ = take_varint();
      break;
    case Wire::fixed64:
      take(8);
      break;
    case Wire::bytes:
      value_ = take(take_varint());
      break;
    case Wire::fixed32:
      value_ = take(4);
      break;
    default:
      fail("has unknown wire type " + std::to_string(key & 7));
  }
  return true;
}

uint64_t ProtoReader::number() const {
  expect(Wire::varint, "a number");
  return number_;
}

float ProtoReader::real() const {
  expect(Wire::fixed32, "a float");
  float value = 0;
  std::memcpy(&value, value_.data(), sizeof value);
  return value;
}

std::string_view ProtoReader::bytes() const {
  expect(Wire::bytes, "bytes");
  return value_;
}

void ProtoReader::fail(const std::string& what) const {
  throw Error(where_, "field " + std::to_string(field_) + " " + what);
}

void ProtoReader::expect(Wire wire, const char* wanted) const {
  if (wire_ != wire) {
    fail("wanted " + std::string(wanted) + ", found wire type " +
         std::to_string(static_cast<uint32_t>(wire_)));
  }
}

uint64_t ProtoReader::take_varint() {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (bytes_.empty()) throw Error(where_, "cut off inside a number");
    const auto byte = static_cast<unsigned char>(bytes_[0]);
    bytes_.remove_prefix(1);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
  throw Error(where_, "a number is longer than 10 bytes");
}

std::string_view ProtoReader::take(uint64_t n) {
  if (n > bytes_.size()) {
    fail("wants " + std::to_string(n) + " bytes, " + std::to_string(bytes_.size()) + " are left");
  }
  const std::string_view taken = bytes_.substr(0, n);
  bytes_.remove_prefix(n);
  return taken;
}

void ProtoWriter::number(uint32_t field, uint64_t value) {
  key(field, Wire::varint);
  varint(value);
}

void ProtoWriter::real(uint32_t field, float value) {
  key(field, Wire::fixed32);
  std::array<char, sizeof value> raw;
  std::memcpy(raw.data(), &value, sizeof value);
  out_.append(raw.data(), raw.size());
}

void ProtoWriter::bytes(uint32_t field, std::string_view value) {
  key(field, Wire::bytes);
  varint(value.size());
  out_ += value;
}

void ProtoWriter::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>(value | 0x80));
  out_.push_back(static_cast<char>(value));
}

}  // namespace vga
