#pragma once

#include <cstdio>
#include <string>

#include <sys/wait.h>

namespace vga::test {

struct Outcome {
  int status;  // exit status, or 128 + signal
  std::string errors;
};

/// Runs a program of ours; only what it writes to stderr is kept.
inline Outcome run(const std::string& arguments) {
  const std::string command = VGA_BIN_DIR "/" + arguments + " 2>&1 >/dev/null </dev/null";
  FILE* pipe = ::popen(command.c_str(), "r");
  Outcome outcome{};
  char chunk[512];
  while (const size_t n = std::fread(chunk, 1, sizeof chunk, pipe)) outcome.errors.append(chunk, n);
  const int status = ::pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

}  // namespace vga::test
