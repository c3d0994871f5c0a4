#include "perplexity/save_logits.h"

#include <cstddef>

#include "base/file.h"
#include "perplexity/chunks.h"

namespace vga {
namespace {

/// Header of a NumPy .npy file (format 1.0) that holds float32 (rows, cols) in C order.
std::string npy_header(size_t rows, size_t cols) {
  std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) +
                     ", " + std::to_string(cols) + "), }";
  // Magic, version and length take 10 bytes; the data begins at a multiple of 64.
  dict.append(63 - (10 + dict.size()) % 64, ' ');
  dict += '\n';
  std::string header = "\x93NUMPY";
  header +=
      {'\x01', '\x00', static_cast<char>(dict.size() & 0xFF), static_cast<char>(dict.size() >> 8)};
  return header + dict;
}

}  // namespace

bool save_logits(Session& session, std::span<const Token> tokens, size_t vocab_size,
                 const std::string& file) {
  session.truncate(0);
  const auto room = static_cast<size_t>(session.room());
  if (tokens.empty() || tokens.size() > room) {
    throw Error("--save-logits", "wanted 1 to " + std::to_string(room) +
                                     " tokens (-c sets the context), found " +
                                     std::to_string(tokens.size()));
  }
  OutputFile out(file);
  out.write(npy_header(tokens.size(), vocab_size));
  const bool done = each_logits(session, tokens, 0, [&](size_t, std::span<const float> logits) {
    out.write(std::as_bytes(logits));
  });
  if (done) out.commit();
  return done;
}

}  // namespace vga
