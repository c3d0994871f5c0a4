#include "checkpoint_files.h"

#include "safetensors.h"
#include "torch_state.h"
#include "vga/error.h"

namespace vga {

namespace fs = std::filesystem;

std::span<const std::byte> open_file(std::vector<MappedFile>& files, const fs::path& path) {
  const auto bytes = files.emplace_back(path).bytes();
  refuse_lfs_pointer(bytes, path.string());
  return bytes;
}

std::span<const std::byte> open_json(std::vector<MappedFile>& files, const fs::path& path) {
  constexpr uint64_t max_json = 64 << 20;
  const auto bytes = open_file(files, path);
  if (bytes.size() > max_json) throw Error(path.string(), "too large for what it is");
  return bytes;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

SourceTensors parse_weights(std::span<const std::byte> bytes, const fs::path& path) {
  return path.extension() == ".safetensors" ? parse_safetensors(bytes, path.string())
                                            : parse_torch_state(bytes, path.string());
}

}  // namespace vga
