#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace vga {

/// The files in a ZIP archive, by name; they point into `archive`. Only stored (uncompressed)
/// entries, as PyTorch writes them: a file can claim nothing that its own size does not cover.
/// ZIP64 is read. Compressed, encrypted, overlapping or duplicate entries, names that lead out of a
/// folder, and sizes that disagree are Errors naming `where` and the entry.
std::map<std::string, std::span<const std::byte>, std::less<>> parse_zip(
    std::span<const std::byte> archive, std::string_view where);

}  // namespace vga
