#include "model/tensor_source.h"

#include <utility>

#include "model/families.h"

namespace vga {

FileSource::FileSource(Gguf gguf) : gguf_(std::move(gguf)) {}

Config FileSource::config() const {
  return read_config(gguf_);
}

}  // namespace vga
