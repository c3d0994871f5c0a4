#pragma once

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>

#include <unistd.h>

namespace vga::test {

/// Gguf reads files, since it is about mapping them; one in memory, written again and again, is
/// fast enough to fuzz. The path of `bytes` as such a file.
inline const std::string& scratch_file(std::string_view bytes) {
  static const std::string path = "/dev/shm/vga-fuzz-" + std::to_string(::getpid());
  static const int registered = std::atexit([] { std::remove(path.c_str()); });
  static_cast<void>(registered);
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

}  // namespace vga::test
