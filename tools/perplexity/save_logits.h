#pragma once

#include <span>
#include <string>

#include "vga/vga.h"

namespace vga {

/// Writes the logits of all `tokens`, float32 (n_tokens, vocab_size), as a NumPy file. An Error if
/// they are none or more than the session holds. False, and no file, if interrupted.
bool save_logits(Session& session, std::span<const Token> tokens, size_t vocab_size,
                 const std::string& file);

}  // namespace vga
