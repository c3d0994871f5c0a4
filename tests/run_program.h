#pragma once

#include <cstdio>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include "base/file.h"
#include "gguf_image.h"

namespace vga::test {

struct Outcome {
  int status;  // exit status, or 128 + signal
  std::string output;
  std::string errors;
};

/// Runs a program of ours: `arguments` begin with its name and are for the shell. `input` is a
/// file, or empty for our own stdin; `through`, such as "timeout 1", is what runs the program.
inline Outcome run(const std::string& arguments, const std::string& input = "/dev/null",
                   const std::string& through = "") {
  const TemporaryDirectory directory;
  const std::string errors = directory.write("errors", "").string();
  const std::string command = through + " " VGA_BIN_DIR "/" + arguments + " 2>'" + errors + "'" +
                              (input.empty() ? "" : " <'" + input + "'");
  FILE* pipe = ::popen(command.c_str(), "r");
  Outcome outcome{};
  char chunk[4096];
  while (const size_t n = std::fread(chunk, 1, sizeof chunk, pipe)) outcome.output.append(chunk, n);
  const int status = ::pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.errors = read_text(errors);
  return outcome;
}

/// Packs the checkpoint in `folder` into `file`, with its matrices in `type`.
inline void convert(const std::filesystem::path& folder, const std::filesystem::path& file,
                    const std::string& type) {
  const Outcome outcome =
      run("vga-convert '" + folder.string() + "' -o '" + file.string() + "' --type " + type);
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
}

}  // namespace vga::test
