#include "gguf/gguf_writer.h"

#include <cassert>
#include <functional>
#include <numeric>

namespace vga {
namespace {

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, std::string_view text) {
  put<uint64_t>(out, text.size());
  out += text;
}

/// Bytes that fill up `n` to a multiple of `alignment`.
std::string padding(uint64_t n, uint64_t alignment) {
  return std::string((alignment - n % alignment) % alignment, '\0');
}

}  // namespace

void GgufWriter::put_key(std::string_view key, GgufType type) {
  put_string(values_, key);
  put(values_, static_cast<uint32_t>(type));
  ++n_values_;
}

void GgufWriter::put_array(std::string_view key, GgufType element, uint64_t count) {
  put_key(key, GgufType::array);
  put(values_, static_cast<uint32_t>(element));
  put(values_, count);
}

void GgufWriter::add(std::string_view key, uint32_t value) {
  put_key(key, GgufType::u32);
  put(values_, value);
}

void GgufWriter::add(std::string_view key, float value) {
  put_key(key, GgufType::f32);
  put(values_, value);
}

void GgufWriter::add(std::string_view key, bool value) {
  put_key(key, GgufType::boolean);
  put<uint8_t>(values_, value ? 1 : 0);
}

void GgufWriter::add(std::string_view key, std::string_view value) {
  put_key(key, GgufType::string);
  put_string(values_, value);
}

void GgufWriter::add(std::string_view key, std::span<const std::string> values) {
  put_array(key, GgufType::string, values.size());
  for (const std::string& value : values) put_string(values_, value);
}

void GgufWriter::add(std::string_view key, std::span<const float> values) {
  put_array(key, GgufType::f32, values.size());
  for (const float value : values) put(values_, value);
}

void GgufWriter::add(std::string_view key, std::span<const int32_t> values) {
  put_array(key, GgufType::i32, values.size());
  for (const int32_t value : values) put(values_, value);
}

void GgufWriter::add(std::string_view key, const std::vector<bool>& values) {
  put_array(key, GgufType::boolean, values.size());
  for (const bool value : values) put(values_, static_cast<uint8_t>(value));
}

void GgufWriter::add(std::string_view key, std::span<const std::byte> values) {
  put_array(key, GgufType::u8, values.size());
  values_.append(reinterpret_cast<const char*>(values.data()), values.size());
}

void GgufWriter::add(std::string_view key, const GgufValue& value) {
  if (value.type == GgufType::array) {
    put_array(key, value.element, value.count);
  } else {
    put_key(key, value.type);
  }
  values_.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
}

void GgufWriter::put_tensor(std::string_view name, std::span<const uint64_t> dims, uint32_t type,
                            uint64_t bytes) {
  put_string(tensors_, name);
  put(tensors_, static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) put(tensors_, dim);
  put(tensors_, type);
  put(tensors_, data_size_);
  data_size_ += bytes + padding(bytes, alignment_).size();
  ++n_tensors_;
}

void GgufWriter::add_tensor(std::string_view name, DType type, std::span<const uint64_t> shape) {
  assert(!shape.empty() && shape.size() <= 4);
  const std::vector<uint64_t> dims(shape.rbegin(), shape.rend());
  const uint64_t rows =
      std::accumulate(dims.begin() + 1, dims.end(), uint64_t{1}, std::multiplies());
  put_tensor(name, dims, static_cast<uint32_t>(type), rows * row_bytes(type, dims[0]));
}

void GgufWriter::add_tensor(const GgufTensor& tensor) {
  put_tensor(tensor.name, std::span(tensor.dims).first(tensor.n_dims), tensor.type,
             tensor.data.size());
}

uint64_t GgufWriter::file_size() const {
  const uint64_t header = 24 + values_.size() + tensors_.size();
  return header + padding(header, alignment_).size() + data_size_;
}

void GgufWriter::begin(OutputFile& out) const {
  std::string header = "GGUF";
  put<uint32_t>(header, 3);
  put(header, n_tensors_);
  put(header, n_values_);
  out.write(header);
  out.write(values_);
  out.write(tensors_);
  pad(out);
}

void GgufWriter::pad(OutputFile& out) const {
  out.write(padding(out.size(), alignment_));
}

}  // namespace vga
