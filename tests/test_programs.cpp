/// What every program promises to the shell it was called from: how it ends at a signal, where
/// output goes and where not, what it says.

#include <csignal>

#include <gtest/gtest.h>

#include "file.h"
#include "gguf_image.h"
#include "run_program.h"

namespace vga::test {
namespace {

class Programs : public testing::Test {
 protected:
  /// Runs a program of ours on the tiny model.
  Outcome run(const std::string& program, const std::string& arguments,
              const std::string& input = "/dev/null", const std::string& through = "") const {
    return test::run(program + " -m '" + model_.string() + "' " + arguments, input, through);
  }

  TemporaryDirectory directory_;
  std::filesystem::path model_ = directory_.write("tiny.gguf", tiny_model().bytes());
};

// Were the signal forgotten with the answer that it ends, there would be lines for a minute.
TEST_F(Programs, ChatEndsAtSigterm) {
  std::string lines;
  for (int i = 0; i < 200'000; ++i) lines += "abc\n";
  const Outcome outcome =
      run("vga-chat", "--window 40 -n 50", directory_.write("script", lines).string(),
          "timeout --preserve-status -k 10 -s TERM 1");
  EXPECT_EQ(outcome.status, 128 + SIGTERM) << outcome.errors;
  EXPECT_NE(outcome.errors.find("stopped"), std::string::npos) << outcome.errors;
}

}  // namespace
}  // namespace vga::test
