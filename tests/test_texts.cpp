/// Texts as people's systems write them, and where programs look for them.

#include <algorithm>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <unistd.h>

#include "gguf_image.h"
#include "run_program.h"

namespace vga::test {
namespace {

class Texts : public testing::Test {
 protected:
  Outcome run(const std::string& command, const std::string& input = "/dev/null") const {
    return test::run(command + " -m '" + model_.string() + "'", input);
  }
  std::string file(const std::string& text) const {
    return directory_.write("text", text).string();
  }

  TemporaryDirectory directory_;
  std::filesystem::path model_ = directory_.write("tiny.gguf", tiny_model().bytes());
};

TEST_F(Texts, TheLastLineBreakOfDosIsTwoCharacters) {
  const std::string generate = "vga-generate --temp 0 -n 5 ";
  const std::string expected = run(generate + "-p abc").output;
  EXPECT_EQ(run(generate + "-f '" + file("abc\r\n") + "'").output, expected);
  EXPECT_EQ(run(generate, file("abc\r\n")).output, expected);
  EXPECT_NE(run(generate, file("abc\r")).output, expected);
}

TEST_F(Texts, DocumentsOfDosAreDocuments) {
  const auto score = [&](const std::string& text) {
    const Outcome outcome = run("vga-perplexity --json --documents '#' -f '" + file(text) + "'");
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    return nlohmann::json::parse(outcome.output);
  };
  const auto expected = score("abc\n#\nde\n#\nf");
  EXPECT_EQ(expected["chunks"], 3);
  EXPECT_EQ(score("abc\r\n#\r\nde\r\n#\r\nf"), expected);
  // Separators also where nothing is to be separated.
  EXPECT_EQ(score("#\nabc\n#\n#\nde\n#\nf\n#"), expected);
  EXPECT_EQ(score("#\r\nabc\r\n#\r\n#\r\nde\r\n#\r\nf\r\n#\r\n"), expected);
}

TEST_F(Texts, AByteOrderMarkIsNoText) {
  const std::string text(300, 'a');
  const std::string marked = "\xEF\xBB\xBF" + text;
  const std::string utf16(
      "\xFF\xFE"
      "a\0b\0",
      6);
  const std::string utf16_big("\xFE\xFF\0a\0b", 6);
  const std::string utf32("\xFF\xFE\0\0a\0\0\0", 8);
  for (const std::string& command :
       {std::string("vga-generate --temp 0 -n 3 -c 400 -f"), std::string("vga-perplexity -f"),
        std::string("vga-stream --csv -w 16 -f"), std::string("vga-probe -f"),
        "vga-perplexity -p " + text + " --w8a8 --calibrate"}) {
    const std::string expected = run(command + " '" + file(text) + "'").output;
    const Outcome outcome = run(command + " '" + file(marked) + "'");
    EXPECT_EQ(outcome.status, 0) << command << outcome.errors;
    EXPECT_EQ(outcome.output, expected) << command;
    EXPECT_NE(outcome.errors.find("byte order mark"), std::string::npos) << outcome.errors;
    for (const auto& [bytes, name] :
         {std::pair(utf16, "UTF-16"), std::pair(utf16_big, "UTF-16"), std::pair(utf32, "UTF-32")}) {
      const Outcome refused = run(command + " '" + file(bytes) + "'");
      EXPECT_EQ(refused.status, 1) << command;
      EXPECT_NE(refused.errors.find(std::string("text: wanted UTF-8, found ") + name),
                std::string::npos)
          << command << refused.errors;
    }
  }
  EXPECT_EQ(run("vga-generate --temp 0 -n 3", file("\xEF\xBB\xBF"
                                                   "abc"))
                .output,
            run("vga-generate --temp 0 -n 3 -p abc").output);
}

TEST_F(Texts, APromptAndAPipeAreOneTooMany) {
  const std::string note = "stdin is not read";
  const std::string generate = "vga-generate --temp 0 -n 3 -p abc";
  const Outcome piped = run(generate, file("de"));
  EXPECT_EQ(piped.status, 0);
  EXPECT_NE(piped.errors.find(note), std::string::npos) << piped.errors;
  EXPECT_EQ(run(generate).errors.find(note), std::string::npos);
  EXPECT_EQ(run(generate, file("")).errors.find(note), std::string::npos);
  EXPECT_EQ(run("vga-generate -n 3", file("de")).errors.find(note), std::string::npos);
}

// As Node starts its children.
TEST_F(Texts, StdinMayBeASocket) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  ASSERT_EQ(::write(ends[1], "abc\n", 4), 4);
  ASSERT_EQ(::shutdown(ends[1], SHUT_WR), 0);
  const int old_stdin = ::dup(STDIN_FILENO);
  ::dup2(ends[0], STDIN_FILENO);
  const Outcome outcome = run("vga-generate --temp 0 -n 5", "");
  ::dup2(old_stdin, STDIN_FILENO);
  for (const int fd : {old_stdin, ends[0], ends[1]}) ::close(fd);
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_EQ(outcome.output, run("vga-generate --temp 0 -n 5 -p abc").output);
}

}  // namespace
}  // namespace vga::test
