#include "safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/checked.h"
#include "strict_json.h"
#include "vga/error.h"

namespace vga {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensors are read in place");

constexpr uint64_t max_header = 100'000'000;  // the format's own limit

struct SourceType {
  std::string_view name;
  uint64_t bytes;
  std::optional<DType> type;
};
constexpr std::array<SourceType, 17> source_types = {{{"F32", 4, DType::f32},
                                                      {"F16", 2, DType::f16},
                                                      {"BF16", 2, DType::bf16},
                                                      {"BOOL", 1, {}},
                                                      {"U8", 1, {}},
                                                      {"I8", 1, {}},
                                                      {"F8_E4M3", 1, {}},
                                                      {"F8_E5M2", 1, {}},
                                                      {"F8_E8M0", 1, {}},
                                                      {"U16", 2, {}},
                                                      {"I16", 2, {}},
                                                      {"U32", 4, {}},
                                                      {"I32", 4, {}},
                                                      {"F64", 8, {}},
                                                      {"I64", 8, {}},
                                                      {"U64", 8, {}},
                                                      {"C64", 8, {}}}};

/// A tensor and where the header says its data lies.
struct TensorEntry {
  std::string name;
  SourceTensor tensor;
  uint64_t begin;
  uint64_t end;
};

const json& member(const json& object, const char* key, std::string_view where) {
  const auto found = object.find(key);
  if (found == object.end()) throw Error(where, "has no '" + std::string(key) + "'");
  return *found;
}

std::vector<uint64_t> integers(const json& array, const std::string& where) {
  if (!array.is_array()) {
    throw Error(where, "wanted an array of numbers, found " + describe_json(array));
  }
  std::vector<uint64_t> numbers;
  for (const json& number : array) numbers.push_back(json_integer(number, where));
  return numbers;
}

TensorEntry parse_entry(const std::string& name, const json& fields, const std::string& where) {
  if (!fields.is_object()) throw Error(where, "wanted an object, found " + describe_json(fields));
  for (const auto& [key, value] : fields.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      throw Error(where, "unknown key '" + key + "'");
    }
  }
  const json& dtype = member(fields, "dtype", where);
  const auto* type = std::ranges::find_if(
      source_types, [&](const SourceType& t) { return dtype.is_string() && dtype == t.name; });
  if (type == source_types.end()) throw Error(where, "unknown dtype " + describe_json(dtype));

  auto shape = integers(member(fields, "shape", where), where + ": shape");
  const auto offsets = integers(member(fields, "data_offsets", where), where + ": data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    throw Error(where, "data_offsets are not a begin and an end");
  }
  const auto elements = checked_product(shape);
  const auto wanted = elements ? checked_mul(*elements, type->bytes) : elements;
  if (!wanted) throw Error(where, "the size of its shape overflows 64 bits");
  if (offsets[1] - offsets[0] != *wanted) {
    throw Error(where, "its shape and dtype want " + std::to_string(*wanted) +
                           " bytes, data_offsets span " + std::to_string(offsets[1] - offsets[0]));
  }
  auto strides = contiguous_strides(shape);
  return {name,
          {std::string(type->name), type->type, std::move(shape), std::move(strides), nullptr},
          offsets[0],
          offsets[1]};
}

void check_metadata(const json& metadata, const std::string& where) {
  if (!metadata.is_object()) {
    throw Error(where, "wanted an object, found " + describe_json(metadata));
  }
  for (const auto& [key, value] : metadata.items()) {
    if (!value.is_string()) {
      throw Error(where, "'" + key + "': wanted a string, found " + describe_json(value));
    }
  }
}

/// The JSON text of the header.
std::span<const std::byte> header_of(std::span<const std::byte> bytes, std::string_view where) {
  if (bytes.size() < 8) {
    throw Error(where, "too small for a safetensors file: " + std::to_string(bytes.size()) +
                           " bytes, wanted at least 8");
  }
  uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof size);
  if (size > max_header) {
    throw Error(where, "claims a header of " + std::to_string(size) + " bytes, the limit is " +
                           std::to_string(max_header) + "; is it a safetensors file?");
  }
  if (size > bytes.size() - 8) {
    throw Error(where, "claims a header of " + std::to_string(size) + " bytes, the file has " +
                           std::to_string(bytes.size() - 8) + " behind its length");
  }
  const auto header = bytes.subspan(8, size);
  if (header.empty() || header[0] != std::byte{'{'}) {
    throw Error(where, "the header does not begin with '{'; is it a safetensors file?");
  }
  return header;
}

bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

}  // namespace

SourceTensors parse_safetensors(std::span<const std::byte> bytes, std::string_view where) {
  const auto header = header_of(bytes, where);
  const json fields = parse_json(header, std::string(where) + ": header");
  if (fields.size() > max_source_tensors) {
    throw Error(where, "has " + std::to_string(fields.size()) + " tensors, the limit is " +
                           std::to_string(max_source_tensors));
  }
  std::vector<TensorEntry> entries;
  for (const auto& [name, value] : fields.items()) {
    if (name == "__metadata__") {
      check_metadata(value, std::string(where) + ": __metadata__");
    } else {
      entries.push_back(parse_entry(name, value, std::string(where) + ": tensor '" + name + "'"));
    }
  }
  std::ranges::sort(entries, {}, [](const TensorEntry& e) { return std::pair(e.begin, e.end); });

  const auto data = bytes.subspan(8 + header.size());
  SourceTensors tensors;
  uint64_t end = 0;  // of the tensors so far
  for (TensorEntry& entry : entries) {
    const std::string tensor_where = std::string(where) + ": tensor '" + entry.name + "'";
    if (entry.begin != end) {
      throw Error(tensor_where, "begins at data offset " + std::to_string(entry.begin) +
                                    ", the tensor before it ends at " + std::to_string(end) +
                                    (entry.begin > end ? ": a hole" : ": they overlap"));
    }
    end = entry.end;
    if (end > data.size()) {
      throw Error(tensor_where, std::to_string(end - data.size()) +
                                    " bytes of its data are missing; is the file cut off?");
    }
    entry.tensor.data = data.data() + entry.begin;
    tensors.emplace(std::move(entry.name), std::move(entry.tensor));
  }
  if (end != data.size()) {
    throw Error(where, std::to_string(data.size() - end) +
                           " bytes behind the last tensor belong to nothing");
  }
  return tensors;
}

std::map<std::string, std::string> parse_safetensors_index(std::span<const std::byte> bytes,
                                                           std::string_view where) {
  const json index = parse_json(bytes, where);
  if (!index.is_object()) throw Error(where, "wanted an object, found " + describe_json(index));
  const json& map = member(index, "weight_map", where);
  if (!map.is_object() || map.empty()) {
    throw Error(where, "key 'weight_map': wanted an object from tensor to file, found " +
                           describe_json(map));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : map.items()) {
    const std::string entry = std::string(where) + ": tensor '" + tensor + "'";
    if (!shard.is_string()) {
      throw Error(entry, "wanted the name of a file, found " + describe_json(shard));
    }
    const auto& file = shard.get_ref<const std::string&>();
    if (!is_plain_file_name(file)) {
      throw Error(entry, "'" + file.substr(0, 256) + "' is not a plain file name");
    }
    shards.emplace(tensor, file);
  }
  return shards;
}

}  // namespace vga
