#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <vector>

#include "base/file.h"
#include "source_tensor.h"

namespace vga {

/// Maps a file and keeps it in `files`; its bytes stay where they are when those grow. An Error if
/// it is what Git LFS leaves in its place.
std::span<const std::byte> open_file(std::vector<MappedFile>& files,
                                     const std::filesystem::path& path);
/// The same for JSON, which is never that large.
std::span<const std::byte> open_json(std::vector<MappedFile>& files,
                                     const std::filesystem::path& path);

bool is_there(const std::filesystem::path& path);

/// The tensors of one file, safetensors or PyTorch's.
SourceTensors parse_weights(std::span<const std::byte> bytes, const std::filesystem::path& path);

}  // namespace vga
