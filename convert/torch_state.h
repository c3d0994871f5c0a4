#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "source_tensor.h"

namespace vga {

/// The tensors of a state dict that torch.save wrote (PyTorch 1.6 and later: a ZIP archive); they
/// point into `archive`. Nothing in the file is executed. Older formats, and everything that is not
/// a plain state dict, are Errors naming `where` and what was found.
SourceTensors parse_torch_state(std::span<const std::byte> archive, std::string_view where);

/// Whether the file begins as a ZIP archive, a bare pickle or a tar archive does: a torch.save file
/// of some age, readable or not.
bool looks_like_torch(std::span<const std::byte> bytes);

}  // namespace vga
