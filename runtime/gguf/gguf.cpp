#include "gguf/gguf.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/checked.h"
#include "base/load.h"
#include "base/text.h"
#include "vga/error.h"

namespace vga {
namespace {

constexpr std::string_view alignment_key = "general.alignment";
constexpr uint64_t max_alignment = 1 << 16;
constexpr uint64_t max_key_length = 65535;
constexpr uint64_t max_tensor_name = 63;
constexpr uint64_t max_entries = 1 << 16;  // values or tensors; real files have a few hundred

constexpr std::array<std::string_view, 13> type_names = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
/// Bytes of a value by type; 0 for strings and arrays, whose length is in the file.
constexpr std::array<uint64_t, 13> type_sizes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/// Block sizes of every type id that may stand in a file, whether we compute with it or not, so
/// that the layout of any GGUF can be checked and shown.
struct BlockSize {
  uint64_t elements;
  uint64_t bytes;
};
constexpr std::array<BlockSize, 40> block_sizes = {{
    {1, 4},    {1, 2},    {32, 18},  {32, 20},   {0, 0},     {0, 0},     {32, 22},   {32, 24},
    {32, 34},  {32, 36},  {256, 84}, {256, 110}, {256, 144}, {256, 176}, {256, 210}, {256, 292},
    {256, 66}, {256, 74}, {256, 98}, {256, 50},  {32, 18},   {256, 110}, {256, 82},  {256, 136},
    {1, 1},    {1, 2},    {1, 4},    {1, 8},     {1, 8},     {256, 56},  {1, 2},     {0, 0},
    {0, 0},    {0, 0},    {256, 54}, {256, 66},  {0, 0},     {0, 0},     {0, 0},     {32, 17},
}};

/// Reads forward through the file; whatever would pass its end is an Error naming the offset.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string_view file) : bytes_(bytes), file_(file) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }

  std::span<const std::byte> take(uint64_t n, std::string_view what) {
    if (n > remaining()) {
      throw Error(file_, std::string(what) + " at offset " + std::to_string(offset_) + " wants " +
                             std::to_string(n) + " bytes, the file has " +
                             std::to_string(remaining()) + " left");
    }
    const auto taken = bytes_.subspan(offset_, n);
    offset_ += n;
    return taken;
  }

  template <class T>
  T number(std::string_view what) {
    return load<T>(take(sizeof(T), what).data());
  }

  std::string_view string(std::string_view what) {
    const auto length = number<uint64_t>(what);
    const auto text = take(length, what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view file_;
  uint64_t offset_ = 0;
};

void check_magic(std::span<const std::byte> bytes, const std::string& file) {
  if (bytes.size() < 24) {
    throw Error(file, "too small for a GGUF file: " + std::to_string(bytes.size()) +
                          " bytes, the header alone has 24");
  }
  const std::string_view magic(reinterpret_cast<const char*>(bytes.data()), 4);
  if (magic == "GGUF") return;
  refuse_lfs_pointer(bytes, file);
  // The older containers of the ggml family wrote their magic as a little-endian number.
  for (const std::string_view old : {"lmgg", "fmgg", "tjgg", "algg"}) {
    if (magic == old) {
      throw Error(file, "is in the old '" + std::string(magic.rbegin(), magic.rend()) +
                            "' format, from before GGUF; convert the model again");
    }
  }
  throw Error(file, "not a GGUF file: wanted the magic 'GGUF', found '" + std::string(magic) + "'");
}

uint32_t check_version(uint32_t version, const std::string& file) {
  if (version == 2 || version == 3) return version;
  const std::string found = "GGUF version " + std::to_string(version);
  if (version < 2) throw Error(file, found + " is too old, wanted 2 or 3; convert the model again");
  if ((version & 0xFFFF) == 0) throw Error(file, "is a big-endian GGUF file, wanted little-endian");
  throw Error(file, found + " is newer than supported, wanted 2 or 3");
}

bool is_plain_name(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7F; });
}

GgufType read_type(Cursor& in, const std::string& where) {
  const auto type = in.number<uint32_t>(where);
  if (type >= type_names.size()) {
    throw Error(where, "unknown value type " + std::to_string(type));
  }
  return static_cast<GgufType>(type);
}

/// Moves over `count` values of `type` and checks what can be wrong inside them.
std::span<const std::byte> skip_values(Cursor& in, GgufType type, uint64_t count,
                                       const std::string& where) {
  if (type == GgufType::string) {
    if (count > in.remaining() / sizeof(uint64_t)) {
      throw Error(where, std::to_string(count) + " strings do not fit into the file");
    }
    Cursor start = in;
    for (uint64_t i = 0; i < count; ++i) in.string(where);
    return start.take(in.offset() - start.offset(), where);
  }
  const uint64_t size = type_sizes[static_cast<size_t>(type)];
  if (count > in.remaining() / size) {
    throw Error(where, std::to_string(count) + " values of type " + std::string(name(type)) +
                           " do not fit into the file");
  }
  const auto bytes = in.take(count * size, where);
  if (type == GgufType::boolean) {
    for (const std::byte b : bytes) {
      if (b > std::byte{1}) {
        throw Error(where,
                    "a bool must be 0 or 1, found " + std::to_string(std::to_integer<int>(b)));
      }
    }
  }
  return bytes;
}

GgufValue read_value(Cursor& in, const std::string& where) {
  const GgufType type = read_type(in, where);
  if (type != GgufType::array) return {type, type, 1, skip_values(in, type, 1, where)};
  const GgufType element = read_type(in, where);
  if (element == GgufType::array) throw Error(where, "arrays of arrays are not supported");
  const auto count = in.number<uint64_t>(where);
  return {type, element, count, skip_values(in, element, count, where)};
}

std::string_view as_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()) + 8, bytes.size() - 8};
}

double as_real(GgufType type, const std::byte* at) {
  switch (type) {
    case GgufType::u8:
      return load<uint8_t>(at);
    case GgufType::i8:
      return load<int8_t>(at);
    case GgufType::u16:
      return load<uint16_t>(at);
    case GgufType::i16:
      return load<int16_t>(at);
    case GgufType::u32:
      return load<uint32_t>(at);
    case GgufType::i32:
      return load<int32_t>(at);
    case GgufType::u64:
      return static_cast<double>(load<uint64_t>(at));
    case GgufType::i64:
      return static_cast<double>(load<int64_t>(at));
    case GgufType::f32:
      return load<float>(at);
    case GgufType::f64:
      return load<double>(at);
    case GgufType::boolean:
    case GgufType::string:
    case GgufType::array:
      break;
  }
  assert(false);
  return 0;
}

bool is_integer(GgufType type) {
  return type != GgufType::f32 && type != GgufType::f64 && type != GgufType::boolean &&
         type != GgufType::string && type != GgufType::array;
}

/// An integer type's value; u64 above INT64_MAX comes out negative.
int64_t as_integer(GgufType type, const std::byte* at) {
  if (type == GgufType::u64) return static_cast<int64_t>(load<uint64_t>(at));
  if (type == GgufType::i64) return load<int64_t>(at);
  return static_cast<int64_t>(as_real(type, at));
}

uint64_t type_size(GgufType type) {
  return type_sizes[static_cast<size_t>(type)];
}

/// Bytes of a tensor's data, every product checked.
uint64_t tensor_bytes(const GgufTensor& tensor, const std::string& where) {
  const BlockSize block =
      tensor.type < block_sizes.size() ? block_sizes[tensor.type] : BlockSize{0, 0};
  if (block.elements == 0) {
    throw Error(where, "has " + gguf_type_name(tensor.type) + ", which no current GGUF uses");
  }
  if (tensor.dims[0] % block.elements != 0) {
    throw Error(where, "rows of " + std::to_string(tensor.dims[0]) + " elements are not whole " +
                           gguf_type_name(tensor.type) + " blocks of " +
                           std::to_string(block.elements));
  }
  const auto elements = checked_product(tensor.dims);
  const auto bytes = elements ? checked_mul(*elements / block.elements, block.bytes) : elements;
  if (!bytes || *bytes > INT64_MAX) throw Error(where, "its size overflows 64 bits");
  return *bytes;
}

std::vector<uint32_t> sorted_by_name(size_t n, auto&& name_of, auto&& report_duplicate) {
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, {}, name_of);
  const auto twin = std::ranges::adjacent_find(order, {}, name_of);
  if (twin != order.end()) report_duplicate(name_of(*twin));
  return order;
}

}  // namespace

std::string_view name(GgufType type) {
  return type_names[static_cast<size_t>(type)];
}

Gguf::Gguf(MappedFile file) : file_(std::move(file)) {
  const std::string& path = file_.name();
  check_magic(file_.bytes(), path);
  Cursor in(file_.bytes(), path);
  in.take(4, "magic");
  version_ = check_version(in.number<uint32_t>("version"), path);
  const auto n_tensors = in.number<uint64_t>("tensor count");
  const auto n_values = in.number<uint64_t>("metadata count");
  // The smallest value takes 14 bytes (key of one byte, type, u8), the smallest tensor 33.
  if (n_values > std::min(max_entries, in.remaining() / 14)) {
    throw Error(path, "claims " + std::to_string(n_values) + " metadata values, more than fit");
  }
  if (n_tensors > std::min(max_entries, in.remaining() / 33)) {
    throw Error(path, "claims " + std::to_string(n_tensors) + " tensors, more than fit");
  }

  values_.reserve(n_values);
  for (uint64_t i = 0; i < n_values; ++i) {
    const std::string which = "metadata key " + std::to_string(i);
    const std::string_view key = in.string(which);
    if (key.empty() || key.size() > max_key_length || !is_plain_name(key)) {
      throw Error(path, which + " is not a name: '" + std::string(key.substr(0, 64)) + "'");
    }
    values_.emplace_back(key, read_value(in, path + ": key '" + std::string(key) + "'"));
  }
  value_order_ = sorted_by_name(
      values_.size(), [&](uint32_t i) { return values_[i].first; },
      [&](std::string_view key) { throw Error(path, "key '" + std::string(key) + "' twice"); });

  if (const GgufValue* value = find(alignment_key)) {
    if (value->type != GgufType::u32) fail_type(alignment_key, "u32", *value);
    alignment_ = load<uint32_t>(value->bytes.data());
    if (alignment_ < 8 || alignment_ > max_alignment || (alignment_ & (alignment_ - 1)) != 0) {
      throw Error(path, "key '" + std::string(alignment_key) +
                            "': wanted a power of two from 8 to 65536, found " +
                            std::to_string(alignment_));
    }
  }

  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < n_tensors; ++i) {
    const std::string which = "name of tensor " + std::to_string(i);
    GgufTensor tensor{in.string(which), 0, 0, {1, 1, 1, 1}, {}};
    if (tensor.name.empty() || tensor.name.size() > max_tensor_name ||
        !is_plain_name(tensor.name)) {
      throw Error(path, which + " is not one of 1 to 63 plain characters: '" +
                            std::string(tensor.name.substr(0, 64)) + "'");
    }
    const std::string where = path + ": tensor '" + std::string(tensor.name) + "'";
    tensor.n_dims = in.number<uint32_t>(where);
    if (tensor.n_dims < 1 || tensor.n_dims > 4) {
      throw Error(where, "wanted 1 to 4 dimensions, found " + std::to_string(tensor.n_dims));
    }
    for (uint32_t d = 0; d < tensor.n_dims; ++d) tensor.dims[d] = in.number<uint64_t>(where);
    tensor.type = in.number<uint32_t>(where);
    offsets.push_back(in.number<uint64_t>(where));
    tensors_.push_back(tensor);
  }
  tensor_order_ = sorted_by_name(
      tensors_.size(), [&](uint32_t i) { return tensors_[i].name; },
      [&](std::string_view name) {
        throw Error(path, "tensor '" + std::string(name) + "' twice");
      });

  // The data begins at the next multiple of the alignment. Each tensor must begin exactly where the
  // one before it ended, padded: that excludes holes, overlaps and reordering at once.
  const uint64_t file_size = file_.bytes().size();
  const uint64_t data_begin = *checked_align(in.offset(), alignment_);
  uint64_t end = data_begin;  // of the data so far, unpadded
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const std::string where = path + ": tensor '" + std::string(tensors_[i].name) + "'";
    const uint64_t size = tensor_bytes(tensors_[i], where);
    const auto begin = checked_align(end, alignment_);
    if (!begin || offsets[i] != *begin - data_begin) {
      throw Error(where,
                  "wanted its data at offset " + std::to_string(begin ? *begin - data_begin : 0) +
                      ", right behind the tensor before it, found " + std::to_string(offsets[i]));
    }
    const auto stop = checked_add(*begin, size);
    if (!stop || *stop > file_size) {
      throw Error(where, std::to_string(stop ? *stop - file_size : size) +
                             " bytes of its data are missing; is the file cut off?");
    }
    tensors_[i].data = file_.bytes().subspan(size == 0 ? 0 : *begin, size);
    end = *stop;
  }
  // Writers may or may not pad behind the last tensor.
  const uint64_t padded_end = *checked_align(end, alignment_);
  trailing_bytes_ = file_size > padded_end ? file_size - padded_end : 0;
}

const GgufValue* Gguf::find(std::string_view key) const {
  const auto name_of = [&](uint32_t i) { return values_[i].first; };
  const auto at = std::ranges::lower_bound(value_order_, key, {}, name_of);
  return at != value_order_.end() && name_of(*at) == key ? &values_[*at].second : nullptr;
}

const GgufTensor* Gguf::find_tensor(std::string_view name) const {
  const auto name_of = [&](uint32_t i) { return tensors_[i].name; };
  const auto at = std::ranges::lower_bound(tensor_order_, name, {}, name_of);
  return at != tensor_order_.end() && name_of(*at) == name ? &tensors_[*at] : nullptr;
}

void Gguf::fail_missing(std::string_view key) const {
  throw Error(file_name(), "key '" + std::string(key) + "' is missing");
}

void Gguf::fail_type(std::string_view key, std::string_view wanted, const GgufValue& found) const {
  const std::string type = found.type == GgufType::array
                               ? "array of " + std::string(vga::name(found.element))
                               : std::string(vga::name(found.type)) + " " + describe(found);
  throw Error(file_name(),
              "key '" + std::string(key) + "': wanted " + std::string(wanted) + ", found " + type);
}

std::optional<uint64_t> Gguf::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!is_integer(value->type)) fail_type(key, "an integer", *value);
  const int64_t number = as_integer(value->type, value->bytes.data());
  if (number < 0) fail_type(key, "an integer from 0 to 2^63-1", *value);
  return static_cast<uint64_t>(number);
}

std::optional<double> Gguf::real(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const bool numeric =
      is_integer(value->type) || value->type == GgufType::f32 || value->type == GgufType::f64;
  if (!numeric) fail_type(key, "a number", *value);
  return as_real(value->type, value->bytes.data());
}

std::optional<bool> Gguf::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::boolean) fail_type(key, "a bool", *value);
  return value->bytes[0] != std::byte{0};
}

std::optional<std::string_view> Gguf::string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::string) fail_type(key, "a string", *value);
  return as_string(value->bytes);
}

const GgufValue* Gguf::array_of(std::string_view key, std::string_view wanted) const {
  const GgufValue* value = find(key);
  if (value != nullptr && value->type != GgufType::array) fail_type(key, wanted, *value);
  return value;
}

std::optional<std::vector<std::string_view>> Gguf::strings(std::string_view key) const {
  const GgufValue* value = array_of(key, "an array of strings");
  if (value == nullptr) return std::nullopt;
  if (value->element != GgufType::string) fail_type(key, "an array of strings", *value);
  std::vector<std::string_view> out;
  out.reserve(value->count);
  Cursor in(value->bytes, file_name());
  for (uint64_t i = 0; i < value->count; ++i) out.push_back(in.string(key));
  return out;
}

std::optional<std::vector<float>> Gguf::floats(std::string_view key) const {
  const GgufValue* value = array_of(key, "an array of f32");
  if (value == nullptr) return std::nullopt;
  if (value->element != GgufType::f32) fail_type(key, "an array of f32", *value);
  std::vector<float> out(value->count);
  if (!out.empty()) std::memcpy(out.data(), value->bytes.data(), value->bytes.size());
  return out;
}

std::optional<std::vector<int64_t>> Gguf::integers(std::string_view key) const {
  const GgufValue* value = array_of(key, "an array of integers");
  if (value == nullptr) return std::nullopt;
  if (!is_integer(value->element)) fail_type(key, "an array of integers", *value);
  std::vector<int64_t> out(value->count);
  const uint64_t size = type_size(value->element);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = as_integer(value->element, value->bytes.data() + i * size);
  }
  return out;
}

std::optional<std::span<const std::byte>> Gguf::raw(std::string_view key) const {
  const GgufValue* value = array_of(key, "an array of bytes");
  if (value == nullptr) return std::nullopt;
  if (type_size(value->element) != 1) fail_type(key, "an array of bytes", *value);
  return value->bytes;
}

namespace {

std::string describe_element(GgufType type, std::span<const std::byte> bytes) {
  if (type == GgufType::string) return printable(as_string(bytes));
  if (type == GgufType::boolean) return bytes[0] == std::byte{0} ? "false" : "true";
  if (type == GgufType::u64) return std::to_string(load<uint64_t>(bytes.data()));
  if (is_integer(type)) return std::to_string(as_integer(type, bytes.data()));
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", as_real(type, bytes.data()));
  return text;
}

}  // namespace

std::string describe(const GgufValue& value, size_t max_length) {
  std::string text;
  if (value.type != GgufType::array) {
    text = describe_element(value.type, value.bytes);
  } else {
    text = "[";
    Cursor in(value.bytes, "");
    for (uint64_t i = 0; i < value.count && text.size() <= max_length; ++i) {
      if (i > 0) text += ", ";
      if (value.element == GgufType::string) {
        text += '\'' + printable(in.string("")) + '\'';
      } else {
        text += describe_element(value.element, in.take(type_size(value.element), ""));
      }
    }
    text += "]";
  }
  if (text.size() <= max_length) return text;
  size_t cut = max_length;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
  return text.substr(0, cut) + "…";
}

}  // namespace vga
