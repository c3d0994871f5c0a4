/// Any bytes as a GGUF file: opened, described, bound as a model. Only vga::Error may come out.

#include <cstdlib>
#include <fstream>
#include <string>

#include <unistd.h>

#include "error.h"
#include "gguf.h"
#include "weights.h"

namespace {

/// Gguf reads files, since it is about mapping them; a file in memory is fast enough to fuzz.
const std::string& scratch_file() {
  static const std::string path = "/dev/shm/vga-fuzz-" + std::to_string(::getpid());
  static const int registered = std::atexit([] { std::remove(path.c_str()); });
  static_cast<void>(registered);
  return path;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::ofstream(scratch_file(), std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  try {
    const vga::Gguf gguf = vga::Gguf::open(scratch_file());
    for (const auto& [key, value] : gguf.values()) {
      vga::describe(value);
      if (value.element == vga::GgufType::string && value.type == vga::GgufType::array) {
        gguf.strings(key);
      }
    }
    // Touch the first and last byte of everything that claims to lie in the file.
    volatile unsigned sum = 0;
    for (const vga::GgufTensor& tensor : gguf.tensors()) {
      if (tensor.data.empty()) continue;
      sum = sum + static_cast<unsigned>(tensor.data.front()) +
            static_cast<unsigned>(tensor.data.back());
    }
    vga::bind_weights(gguf, vga::read_config(gguf));
  } catch (const vga::Error&) {
  }
  return 0;
}
