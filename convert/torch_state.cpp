#include "torch_state.h"

#include "pickle.h"
#include "vga/error.h"
#include "zip.h"

namespace vga {
namespace {

std::string_view text_at(std::span<const std::byte> bytes, size_t offset, size_t size) {
  if (offset + size > bytes.size()) return {};
  return {reinterpret_cast<const char*>(bytes.data()) + offset, size};
}

bool is_zip(std::span<const std::byte> bytes) {
  return text_at(bytes, 0, 4) == "PK\x03\x04";
}
bool is_tar(std::span<const std::byte> bytes) {
  return text_at(bytes, 257, 5) == "ustar";
}
/// PROTO, version, instruction: how torch.save began a file before PyTorch 1.6. No instruction is
/// 0, which tells it from a llama2.c file, whose first number may well begin with 0x80.
bool is_pickle(std::span<const std::byte> bytes) {
  return bytes.size() >= 3 && bytes[0] == std::byte{0x80} && bytes[1] >= std::byte{2} &&
         bytes[1] <= std::byte{5} && bytes[2] != std::byte{0};
}

void refuse_legacy(std::span<const std::byte> bytes, std::string_view where) {
  constexpr std::string_view advice =
      "; load it with a PyTorch you trust it to and save it again: "
      "torch.save(model.state_dict(), FILE)";
  if (is_pickle(bytes)) {
    throw Error(where,
                "a bare pickle, as torch.save wrote before PyTorch 1.6" + std::string(advice));
  }
  if (is_tar(bytes)) {
    throw Error(where, "a tar archive, as PyTorch wrote before 0.2" + std::string(advice));
  }
  if (!is_zip(bytes))
    throw Error(where, "not a torch.save file: it does not begin as a ZIP archive");
}

}  // namespace

bool looks_like_torch(std::span<const std::byte> bytes) {
  return is_zip(bytes) || is_pickle(bytes) || is_tar(bytes);
}

SourceTensors parse_torch_state(std::span<const std::byte> archive, std::string_view where) {
  refuse_legacy(archive, where);
  const auto files = parse_zip(archive, where);
  // All files lie in one folder named after the archive.
  constexpr std::string_view pickle_name = "data.pkl";
  const auto& first = files.empty() ? std::string() : files.begin()->first;
  const std::string folder = first.substr(0, first.find('/') + 1);
  const auto pickle = files.find(folder + std::string(pickle_name));
  if (pickle == files.end()) {
    throw Error(where,
                "a ZIP archive without '" + std::string(pickle_name) + "', so no torch.save file");
  }
  if (const auto order = files.find(folder + "byteorder"); order != files.end()) {
    const std::string_view found(reinterpret_cast<const char*>(order->second.data()),
                                 order->second.size());
    if (found != "little") {
      throw Error(where, "byte order '" + std::string(found.substr(0, 16)) + "', wanted little");
    }
  }

  auto named = parse_pickled_state(pickle->second, std::string(where) + ": " + pickle->first);
  if (named.size() > max_source_tensors) {
    throw Error(where, "has " + std::to_string(named.size()) + " tensors, the limit is " +
                           std::to_string(max_source_tensors));
  }
  SourceTensors tensors;
  for (auto& [name, tensor] : named) {
    const std::string tensor_where = std::string(where) + ": tensor '" + name + "'";
    const std::string entry = folder + "data/" + tensor.storage;
    const auto storage = files.find(entry);
    if (storage == files.end()) {
      throw Error(tensor_where, "its storage '" + entry + "' is not in the archive");
    }
    if (storage->second.size() != tensor.storage_bytes) {
      throw Error(tensor_where, "its storage '" + entry + "' has " +
                                    std::to_string(storage->second.size()) + " bytes, wanted " +
                                    std::to_string(tensor.storage_bytes));
    }
    tensors.emplace(
        std::move(name),
        SourceTensor{std::move(tensor.storage_type), tensor.type, std::move(tensor.shape),
                     std::move(tensor.strides), storage->second.data() + tensor.offset});
  }
  return tensors;
}

}  // namespace vga
