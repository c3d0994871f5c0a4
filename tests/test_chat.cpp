/// vga-chat as scripts and people meet it.

#include <algorithm>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "gguf_image.h"
#include "run_program.h"
#include "terminal.h"

namespace vga::test {
namespace {

class ChatProgram : public testing::Test {
 protected:
  Outcome chat(const std::string& script, const std::string& arguments = "-n 2",
               const std::string& environment = "") const {
    return run("vga-chat -m '" + model_.string() + "' " + arguments,
               directory_.write("script", script).string(), environment);
  }
  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }

  TemporaryDirectory directory_;
  std::filesystem::path model_ = directory_.write("tiny.gguf", tiny_model().bytes());
};

TEST_F(ChatProgram, AScriptThatFailsEndsWithOne) {
  EXPECT_EQ(chat("abc\n/stats\n\n/exit\n").status, 0);
  const std::string full_of_text = std::string(100, 'a') + "\n";
  const std::pair<std::string, std::string> cases[] = {
      {full_of_text, "has room for"},
      {"/load " + path("nothing") + "\n", "cannot open"},
      {"/load " + model_.string() + "\n", "is no saved conversation"},
      {"/save " + path("no folder/file") + "\n", "cannot create"},
      {"/save\n", "wanted the name of a file"},
      {"/nonsense\n", "no such command"},
      {"/system x\n", "no place for one"}};
  for (const auto& [script, says] : cases) {
    const Outcome outcome = chat(script + "abc\n");  // which is answered nevertheless
    EXPECT_EQ(outcome.status, 1) << script;
    EXPECT_NE(outcome.errors.find(says), std::string::npos) << outcome.errors;
    EXPECT_GE(outcome.output.size(), 2u) << script;
  }
  // A context that the answer fills.
  const Outcome full = chat("abc\n", "-n -1 --temp 5 --top-k 0 --min-p 0 --top-p 1 --seed 3 -c 12");
  EXPECT_EQ(full.status, 1);
  EXPECT_NE(full.errors.find("the context is full"), std::string::npos) << full.errors;
}

TEST_F(ChatProgram, AFirstMessageThatDoesNotFitSaysSo) {
  const std::string message = std::string(100, 'a') + "\n";
  const Outcome first = chat(message);
  EXPECT_NE(first.errors.find("(-c)"), std::string::npos) << first.errors;
  EXPECT_EQ(first.errors.find("/clear starts over"), std::string::npos) << first.errors;
  const Outcome second = chat("abc\n" + message);
  EXPECT_NE(second.errors.find("/clear starts over"), std::string::npos) << second.errors;
}

TEST_F(ChatProgram, AModelWithoutATokenizerIsRefusedAtTheStart) {
  GgufImage image = tiny_model();
  std::erase_if(image.values, [](const auto& value) { return value.key.starts_with("tokenizer"); });
  const auto model = directory_.write("ids.gguf", image.bytes()).string();
  const Outcome outcome = run("vga-chat -m '" + model + "'");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.errors.find("without a tokenizer"), std::string::npos) << outcome.errors;
  EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 1) << outcome.errors;
}

TEST_F(ChatProgram, ABlockIsNoCommand) {
  const Outcome outcome = chat("\"\"\"/exit\nabc\"\"\"\n/save " + path("chat.json") + "\n");
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  const auto saved = nlohmann::json::parse(read_text(path("chat.json")));
  EXPECT_EQ(saved["turns"][0]["user"], "/exit\nabc");
}

TEST_F(ChatProgram, NamesOfFilesAreMeantAsInAShell) {
  const std::string home = "env HOME='" + directory_.path().string() + "'";
  for (const std::string& name : {std::string("~/a b.json"), "  " + path("a b.json") + " \t"}) {
    std::filesystem::remove(path("a b.json"));
    std::string script = "abc\n/save ";
    script.append(name).append("\n/load ").append(name).append("\n");
    const Outcome outcome = chat(script, "-n 2", home);
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    EXPECT_NE(outcome.errors.find("loaded 1 turns"), std::string::npos) << outcome.errors;
    EXPECT_TRUE(std::filesystem::exists(path("a b.json"))) << name;
  }
  EXPECT_EQ(chat("/exit  \nabc\n").output, "");
  const Outcome homeless = chat("/save ~/x\n", "", "env -u HOME");
  EXPECT_NE(homeless.errors.find("HOME is not set"), std::string::npos) << homeless.errors;
}

TEST_F(ChatProgram, AScriptMayBeginWithAByteOrderMark) {
  EXPECT_EQ(chat("\xEF\xBB\xBF"
                 "abc\n",
                 "-n 9 --temp 0")
                .output,
            chat("abc\n", "-n 9 --temp 0").output);
  const Outcome wide =
      chat(std::string("\xFF\xFE"
                       "a\0\n\0",
                       6));
  EXPECT_EQ(wide.status, 1);
  EXPECT_NE(wide.errors.find("stdin: wanted UTF-8, found UTF-16"), std::string::npos)
      << wide.errors;
}

TEST_F(ChatProgram, AnswersHaveALimitOrNone) {
  const std::string flags = " --temp 5 --top-k 0 --min-p 0 --top-p 1 --seed 3 -c 64";
  const size_t with_default = chat("abc\n", flags).output.size();
  EXPECT_LT(chat("abc\n", "-n 2" + flags).output.size(), with_default);
  EXPECT_EQ(chat("abc\n", "-n -1" + flags).output.size(), with_default);  // the context ends both
  EXPECT_EQ(chat("abc\n", "-n -2" + flags).status, 1);
}

class ChatOnTerminal : public ChatProgram {
 protected:
  std::string command_ = "vga-chat -n 2 -m '" + model_.string() + "'";
  std::string home_ = "-u NO_COLOR HOME='" + directory_.path().string() + "' ";
};

TEST_F(ChatOnTerminal, CtrlCAsksOnceMoreBeforeItLeaves) {
  Terminal terminal(command_, home_ + "TERM=vt100");
  const std::string_view ctrl_c = "\x03";
  ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
  terminal.type(ctrl_c);
  ASSERT_TRUE(terminal.sees("Ctrl-C once more leaves")) << terminal.output();
  ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
  terminal.type("abc");  // somebody who stays
  ASSERT_TRUE(terminal.sees("abc")) << terminal.output();
  terminal.type(ctrl_c);
  ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
  terminal.type(ctrl_c);
  ASSERT_TRUE(terminal.sees("Ctrl-C once more leaves")) << terminal.output();
  ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
  terminal.type(ctrl_c);
  EXPECT_EQ(terminal.end(), 0) << terminal.output();
}

// A half-typed message of several lines is dropped as one of one line is.
TEST_F(ChatOnTerminal, CtrlCDropsAllLinesOfAMessage) {
  Terminal terminal(command_, home_ + "TERM=vt100");
  ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
  terminal.type("abc\\\r");
  ASSERT_TRUE(terminal.sees("… ")) << terminal.output();
  terminal.type("\x03");
  ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
  terminal.type("/exit\r");
  EXPECT_EQ(terminal.end(), 0) << terminal.output();
  EXPECT_EQ(terminal.output().find("once more"), std::string::npos) << terminal.output();
}

TEST_F(ChatOnTerminal, WhatFailsIsSeenThereAndNoError) {
  Terminal terminal(command_, home_ + "TERM=vt100");
  ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
  terminal.type("/nonsense\r");
  ASSERT_TRUE(terminal.sees("no such command")) << terminal.output();
  ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
  terminal.type("\x04");
  EXPECT_EQ(terminal.end(), 0) << terminal.output();
}

TEST_F(ChatOnTerminal, ADumbOneGetsNoColour) {
  for (const std::string kind : {"TERM=vt100", "TERM=dumb", "NO_COLOR=1 TERM=vt100", "-u TERM"}) {
    Terminal terminal(command_, (kind[0] == '-' ? kind + " " + home_ : home_ + kind));
    ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
    terminal.type("abc\r");
    ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
    terminal.type("/exit\r");
    EXPECT_EQ(terminal.end(), 0) << terminal.output();
    const bool coloured = terminal.output().find("\x1b[36m") != std::string::npos ||
                          terminal.output().find("\x1b[2m") != std::string::npos;
    EXPECT_EQ(coloured, kind == "TERM=vt100") << kind << '\n' << terminal.output();
  }
}

// The template opens a thought for the answer, and this one never ends it.
TEST_F(ChatOnTerminal, ThoughtsAreDim) {
  const std::string turns = "{% for m in messages %}{{ m.content }}{% endfor %}";
  for (const auto& [name, jinja] : {std::pair("thinks", turns + "<think>\n"), {"answers", turns}}) {
    const std::string file = directory_.write(name, jinja).string();
    Terminal terminal(command_ + " --temp 0 --chat-template '" + file + "'", home_ + "TERM=vt100");
    ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
    terminal.type("abc\r");
    ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
    terminal.type("/exit\r");
    EXPECT_EQ(terminal.end(), 0) << terminal.output();
    EXPECT_EQ(terminal.output().find("\x1b[22m") != std::string::npos, jinja != turns)
        << terminal.output();
  }
}

TEST_F(ChatOnTerminal, TheHistoryHasAFolder) {
  const auto history = directory_.path() / ".local/state/vga-chat-history";
  for (const std::string state : {"XDG_STATE_HOME=", "XDG_STATE_HOME=not/absolute"}) {
    std::filesystem::remove_all(directory_.path() / ".local");
    Terminal terminal(command_, home_ + "TERM=vt100 " + state);
    ASSERT_TRUE(terminal.sees("> ")) << terminal.output();
    terminal.type("/exit\r");
    EXPECT_EQ(terminal.end(), 0) << terminal.output();
    ASSERT_TRUE(std::filesystem::exists(history)) << state;
    EXPECT_NE(read_text(history).find("/exit"), std::string::npos);
  }
  EXPECT_FALSE(std::filesystem::exists("not"));
}

}  // namespace
}  // namespace vga::test
