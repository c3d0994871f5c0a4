/// The ids of the text on stdin in the vocabulary of a GGUF file, one a line: what other programs
/// compare theirs with.

#include <cstdio>
#include <exception>

#include "base/file.h"
#include "gguf/gguf.h"
#include "vga/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: print-tokens MODEL.gguf < TEXT\n", stderr);
    return 1;
  }
  try {
    const auto tokenizer = vga::Tokenizer::from_gguf(vga::Gguf::open(argv[1]));
    for (const vga::Token token : tokenizer.encode(vga::read_text("/dev/stdin"))) {
      std::printf("%d\n", token);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "print-tokens: error: %s\n", error.what());
    return 1;
  }
}
