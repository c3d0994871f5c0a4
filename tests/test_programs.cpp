/// What every program promises to the shell it was called from: how it ends at a signal, where
/// output goes and where not, what it says.

#include <cmath>
#include <csignal>
#include <cstring>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "base/file.h"
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

// Were the signal forgotten with the answer that it ends, the script would be read to its end.
TEST_F(Programs, AScriptedChatEndsAtASignal) {
  std::string lines;
  for (int i = 0; i < 50'000; ++i) lines += "abc\n";
  const std::string script = directory_.write("script", lines).string();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const Outcome outcome =
        run("vga-chat", "--window 40 -n 30", script,
            "timeout --foreground --preserve-status -s " + std::to_string(signal) + " 1");
    EXPECT_EQ(outcome.status, 128 + signal) << outcome.errors;
  }
}

TEST_F(Programs, LineBreaksThatNobodyMeansAreNotRead) {
  const std::string flags = "--temp 0 -n 5 ";
  const std::string expected = run("vga-generate", flags + "-p abc").output;
  const auto text = [&](const std::string& t) { return directory_.write("text", t).string(); };
  EXPECT_EQ(run("vga-generate", flags, text("abc\n")).output, expected);
  EXPECT_EQ(run("vga-generate", flags + "-f " + text("abc\n")).output, expected);
  EXPECT_NE(run("vga-generate", flags, text("abc\n\n")).output, expected);
  const Outcome dos = run("vga-chat", flags, text("abc\r\n/exit\r\n"));
  EXPECT_EQ(dos.output, run("vga-chat", flags, text("abc\n")).output);
  EXPECT_EQ(dos.errors.find("no such command"), std::string::npos) << dos.errors;
}

TEST_F(Programs, TokenizeShowsIdsAndPieces) {
  const Outcome ids = run("vga-tokenize", "--ids -p abc");
  EXPECT_EQ(ids.status, 0);
  EXPECT_EQ(run("vga-tokenize", "--ids", directory_.write("text", "abc").string()).output,
            ids.output);
  // The line break of a file is a part of it, the token that starts a text none.
  EXPECT_NE(run("vga-tokenize", "--ids", directory_.write("text", "abc\n").string()).output,
            ids.output);
  const std::string without = run("vga-tokenize", "--ids --no-bos -p abc").output;
  EXPECT_EQ("1 " + without, ids.output);
  const Outcome table = run("vga-tokenize", "-p abc");
  EXPECT_NE(table.output.find("       1  '<s>'  control\n"), std::string::npos) << table.output;
  EXPECT_EQ(run("vga-tokenize", "--ids --special -p '</s>'").output, "1 2\n");
}

TEST_F(Programs, TwoBosAreNoted) {
  const std::string note = "starts with two <s>";
  for (const std::string program : {"vga-generate -n 1", "vga-tokenize"}) {
    EXPECT_NE(run(program, "--special -p '<s>a'").errors.find(note), std::string::npos) << program;
    EXPECT_EQ(run(program, "-p '<s>a'").errors.find(note), std::string::npos) << program;
    EXPECT_EQ(run(program, "--special -p a").errors.find(note), std::string::npos) << program;
  }
}

TEST_F(Programs, ContextsBeyondTheTrainedOneAreNoted) {
  const std::string note = "the model was trained on";
  EXPECT_NE(run("vga-generate", "-p a -n 1 -c 5000").errors.find(note), std::string::npos);
  EXPECT_EQ(run("vga-generate", "-p a -n 1").errors.find(note), std::string::npos);
  EXPECT_EQ(run("vga-perplexity", "-p abcdef").errors.find(note), std::string::npos);
}

TEST_F(Programs, SeedsAreOnesOwnOrRandom) {
  const auto text = [&](const std::string& seed) {
    return run("vga-generate", "-p a -n 30 --ignore-end --temp 5 --top-k 0 --seed " + seed).output;
  };
  EXPECT_EQ(text("7"), text("7"));
  EXPECT_NE(text("-1"), text("-1"));
}

// Also where each piece of the text is a single batch.
TEST_F(Programs, PerplexityEndsAtSigint) {
  constexpr int n_documents = 500'000;
  std::string documents;
  for (int i = 0; i < n_documents; ++i) documents += "abc\n#\n";
  const std::string text = directory_.write("text", documents).string();
  const Outcome outcome = run("vga-perplexity", "--json --documents '#' -f '" + text + "'",
                              "/dev/null", "timeout --foreground --preserve-status -s INT 1");
  EXPECT_EQ(outcome.status, 128 + SIGINT) << outcome.errors;
  if (!outcome.output.empty()) {  // a slow machine may not have begun
    EXPECT_LT(nlohmann::json::parse(outcome.output).at("tokens"), 5 * n_documents);
  }
}

TEST_F(Programs, InputsAndDevicesAreNotWrittenOver) {
  const std::string before = read_text(model_);
  const std::string device = (directory_.path() / "device").string();  // one that may be lost
  ASSERT_EQ(::mkfifo(device.c_str(), 0600), 0);
  const auto refused = [&](const Outcome& outcome, const std::string& says) {
    EXPECT_NE(outcome.errors.find(says), std::string::npos) << outcome.errors;
    EXPECT_EQ(read_text(model_), before);
    EXPECT_TRUE(std::filesystem::is_fifo(device));
  };
  const std::string own = "is the input itself";
  const std::string text = directory_.write("text", "abc").string();
  const std::string model = model_.string();
  const auto save_logits = [&](const std::string& to) {
    return run("vga-perplexity", "-f '" + text + "' --save-logits '" + to + "'");
  };
  for (const std::string& name : {model, text}) {
    const Outcome outcome = save_logits(name);
    EXPECT_EQ(outcome.status, 1);
    refused(outcome, own);
  }
  EXPECT_EQ(read_text(text), "abc");
  refused(run("vga-perplexity", "-p abc --save-logits " + device), "not a regular file");
  const auto script =
      directory_.write("script", "/save " + model + "\n/save " + device + "\n").string();
  const Outcome chat = run("vga-chat", "", script);
  EXPECT_EQ(chat.status, 1);
  refused(chat, own);
  refused(chat, "not a regular file");
}

// Also where a text has no end.
TEST_F(Programs, EndWhenStdoutIsFull) {
  const std::string text = directory_.write("text", std::string(300, 'a')).string();
  const std::string script = directory_.write("script", "abc\nabc\nabc\n").string();
  for (const std::string& arguments :
       {std::string("vga-generate -p abc -n -1 --ignore-end --window 16"),
        std::string("vga-chat --window 16 -n 1000000000"), "vga-perplexity -f '" + text + "'",
        "vga-stream -w 16 -f '" + text + "'", "vga-probe -f '" + text + "'",
        std::string("vga-bench -p 0 -n 1 -r 1 -d 0-400+1 -o jsonl")}) {
    const Outcome outcome = run(arguments, ">/dev/full", script, "timeout 60");
    EXPECT_EQ(outcome.status, 1) << arguments;
    EXPECT_NE(outcome.errors.find("error: stdout: cannot write\n"), std::string::npos)
        << outcome.errors;
  }
  for (const std::string& program : {"vga-inspect '" + model_.string() + "'",
                                     "vga-quantize --dry-run '" + model_.string() + "' out q8_0"}) {
    EXPECT_EQ(test::run(program + " >/dev/full").status, 1) << program;
  }
}

/// A tiny model whose values are `factor` times as large.
GgufImage with_values(float factor) {
  GgufImage image = tiny_model();
  std::string& data = image.find_tensor("blk.1.attn_v.weight")->data;
  for (size_t i = 0; i < data.size(); i += sizeof(float)) {
    float value = 0;
    std::memcpy(&value, data.data() + i, sizeof value);
    data.replace(i, sizeof value, raw(value * factor));
  }
  return image;
}

TEST_F(Programs, LogitsThatAreNotFiniteAreAnError) {
  const auto large = directory_.write("large.gguf", with_values(1e6f).bytes()).string();
  const auto broken = directory_.write("broken.gguf", with_values(NAN).bytes()).string();
  const auto text = directory_.write("text", std::string(300, 'a')).string();
  const auto script = directory_.write("script", "abc\nabc\n").string();
  const auto logits = (directory_.path() / "logits.npy").string();
  for (const std::string& command :
       {std::string("vga-generate -p abc -n 5"), std::string("vga-generate -p abc -n 5 --temp 0"),
        std::string("vga-generate -p abc -n 5 --top-k 0"), std::string("vga-chat -n 5"),
        "vga-perplexity -f '" + text + "'", "vga-perplexity --window 16 -f '" + text + "'",
        "vga-perplexity -f '" + text + "' --w8a8",
        "vga-perplexity -p abc --save-logits '" + logits + "'",
        "vga-stream -w 16 -f '" + text + "'", std::string("vga-stream -w 16 --generate 40"),
        std::string("vga-bench -p 8 -n 4 -r 1")}) {
    const bool has_f32 = command.find("--w8a8") != std::string::npos;
    for (const std::string& model : {large, broken}) {
      if (has_f32 && model == large) continue;
      const std::string of_model = " -m '" + model + "'";
      const Outcome outcome = test::run(command + of_model, script);
      EXPECT_EQ(outcome.status, 1) << command;
      for (const char* flag : {"--cache-type f32", "vga-inspect --check-tensors"}) {
        EXPECT_NE(outcome.errors.find(flag), std::string::npos) << command << outcome.errors;
      }
      EXPECT_EQ((outcome.output + outcome.errors).find("nan"), std::string::npos)
          << outcome.output << outcome.errors;
    }
    EXPECT_FALSE(std::filesystem::exists(logits));
  }
  // vga-probe caches in f32 by itself.
  EXPECT_EQ(test::run("vga-probe -f '" + text + "' -m '" + broken + "'").status, 1);
  const Outcome good = test::run("vga-generate -p abc -n 5 --cache-type f32 -m '" + large + "'");
  EXPECT_EQ(good.status, 0) << good.errors;
}

TEST_F(Programs, CheckTensorsFindsWhatACacheCannotHold) {
  const auto check = [&](float factor) {
    const auto model = directory_.write("model.gguf", with_values(factor).bytes()).string();
    return test::run("vga-inspect --check-tensors '" + model + "'");
  };
  EXPECT_EQ(check(1).status, 0);
  const Outcome broken = check(NAN);
  EXPECT_EQ(broken.status, 1);
  EXPECT_NE(broken.errors.find("'blk.1.attn_v.weight': 384 values are NaN"), std::string::npos)
      << broken.errors;
  const Outcome large = check(1e6f);
  EXPECT_EQ(large.status, 1);
  EXPECT_NE(large.errors.find("layer 1: its values may reach"), std::string::npos) << large.errors;
  EXPECT_NE(large.errors.find("--cache-type f32"), std::string::npos) << large.errors;
  EXPECT_EQ(large.errors.find("layer 0"), std::string::npos) << large.errors;
}

TEST_F(Programs, TellTheirVersion) {
  for (const char* program :
       {"vga-generate", "vga-chat", "vga-perplexity", "vga-stream", "vga-probe", "vga-bench",
        "vga-inspect", "vga-quantize", "vga-convert", "vga-tokenize"}) {
    const Outcome outcome = test::run(std::string(program) + " --version");
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    EXPECT_EQ(outcome.output, std::string(program) + " " VGA_VERSION "\n");
  }
}

TEST_F(Programs, NumbersWithoutASignHaveNone) {
  const auto refused = [&](const std::string& command, const std::string& flag) {
    const Outcome outcome = test::run(command);
    EXPECT_EQ(outcome.status, 1) << command;
    EXPECT_NE(outcome.errors.find(flag), std::string::npos) << command << outcome.errors;
  };
  const std::string model = " '" + model_.string() + "'";
  refused("vga-inspect -c -5" + model, "--context");
  for (const auto& [command, flag] :
       {std::pair("vga-generate -p a -c -5", "--context"),
        std::pair("vga-generate -p a -c 268435457", "--context"),
        std::pair("vga-chat -c -5", "--context"),
        std::pair("vga-perplexity -p a -c -1", "--context"),
        std::pair("vga-generate -p a --top-k -5", "--top-k"),
        std::pair("vga-chat --repeat-last -1", "--repeat-last"),
        std::pair("vga-chat --gpu-layers -1", "--gpu-layers"),
        std::pair("vga-perplexity -p a --chunks -1", "--chunks"),
        std::pair("vga-probe -p a --blocks -1", "--blocks"),
        std::pair("vga-chat --seed -2", "--seed"),
        std::pair("vga-chat --seed 99999999999999999999", "--seed"),
        std::pair("vga-chat --seed 1x", "--seed"), std::pair("vga-chat --seed ''", "--seed")}) {
    refused(command + (" -m" + model), flag);
  }
}

TEST_F(Programs, SeedsHave64Bits) {
  const auto text = [&](const std::string& seed) {
    const Outcome outcome =
        run("vga-generate", "-p a -n 30 --ignore-end --temp 5 --top-k 0 --min-p 0 --seed " + seed);
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    EXPECT_NE(outcome.errors.find("seed " + seed), std::string::npos) << outcome.errors;
    return outcome.output;
  };
  EXPECT_EQ(text("18446744073709551615"), text("18446744073709551615"));
  EXPECT_NE(text("18446744073709551615"), text("9223372036854775808"));
}

TEST_F(Programs, HelpSaysInWhichOrderSamplersApply) {
  const std::string help = test::run("vga-generate --help").output;
  std::string words;  // without line breaks and what indents
  for (const char c : help) {
    const bool space = c == ' ' || c == '\n';
    if (!space || !words.ends_with(' ')) words += space ? ' ' : c;
  }
  EXPECT_NE(words.find("repeat-penalty, top-k, top-p, min-p, temp"), std::string::npos) << help;
}

// A cache of two terabytes, before anything of it is allocated.
TEST_F(Programs, OutOfMemorySaysHowMuchForWhatAndWhatToDo) {
  const auto model =
      directory_.write("wide.gguf", tiny_model(32, {AttentionGate::Source::value}, 512).bytes())
          .string();
  const auto refused = [&](const std::string& command, const std::vector<std::string>& says) {
    const Outcome outcome = test::run(command + " -m '" + model + "'");
    EXPECT_EQ(outcome.status, 1) << command;
    for (const std::string& words : says) {
      EXPECT_NE(outcome.errors.find(words), std::string::npos) << command << outcome.errors;
    }
  };
  if (std::getenv("VGA_DEVICE") != nullptr) GTEST_SKIP() << "a device says it in its own words";
  const std::string n = " 268435456";
  refused("vga-generate -p a -c" + n,
          {"a context of" + n + " tokens in f16 takes 2.0 TiB", "(-c) or --cache-type q8_0"});
  refused("vga-generate -p a --cache-type f32 -c" + n, {"4.0 TiB", "(-c) or --cache-type f16"});
  refused("vga-generate -p a --cache-type q8_0 -c" + n, {"1.1 TiB", "(-c) takes less"});
  refused("vga-chat --window" + n, {"a window of" + n, "--window"});
  // No heads that q8_0 could hold.
  const Outcome narrow = run("vga-generate", "-p a -c" + n);
  EXPECT_EQ(narrow.errors.find("q8_0"), std::string::npos) << narrow.errors;
}

TEST_F(Programs, AnEmptyPromptIsOne) {
  const auto piped = directory_.write("piped", "b").string();
  const Outcome empty = run("vga-generate", "-p '' --temp 0 -n 8", piped);
  EXPECT_EQ(empty.status, 0) << empty.errors;
  EXPECT_NE(empty.errors.find("prefill 1 tokens"), std::string::npos) << empty.errors;
  const Outcome none = run("vga-generate", "--temp 0 -n 8", piped);
  EXPECT_NE(none.errors.find("prefill 3 tokens"), std::string::npos) << none.errors;

  GgufImage image = tiny_model();
  image.set("tokenizer.ggml.add_bos_token", GgufType::boolean, std::string(1, '\0'));
  const auto no_bos = directory_.write("no_bos.gguf", image.bytes()).string();
  const Outcome refused = test::run("vga-generate -p '' -m '" + no_bos + "'");
  EXPECT_EQ(refused.status, 1);
  EXPECT_EQ(refused.errors,
            "vga-generate: error: prompt: is empty, and this model starts with no <s>\n");
}

// What a file is called neither moves the cursor nor ends a page or a picture early.
TEST_F(Programs, NamesOfAnyLengthAndContent) {
  GgufImage image = tiny_model();
  image.set("general.name", "\x1b[2J<b>\x01\xff]]>" + std::string(3000, 'n'));
  const auto model = directory_.write("named.gguf", image.bytes()).string();
  const auto text = directory_.write("text", std::string(300, 'a')).string();
  const auto page = (directory_.path() / "page.html").string();
  const auto picture = (directory_.path() / "picture.svg").string();
  const std::string flags = " -m '" + model + "' -f '" + text + "'";
  const std::vector<std::string> commands = {"vga-probe --html '" + page + "'" + flags,
                                             "vga-chat -m '" + model + "'",
                                             "vga-stream -w 16 --plot '" + picture + "'" + flags};
  for (const std::string& command : commands) {
    const Outcome outcome = test::run(command);
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    EXPECT_EQ((outcome.output + outcome.errors).find('\x1b'), std::string::npos) << command;
  }
  const std::string name = "\\x1B[2J&lt;b&gt;\\x01\\xFF]]&gt;" + std::string(3000, 'n');
  EXPECT_NE(read_text(page).find("<h1>" + name + "</h1>"), std::string::npos);
  EXPECT_NE(read_text(picture).find(name), std::string::npos);
  EXPECT_TRUE(read_text(picture).ends_with("</svg>\n"));
}

TEST_F(Programs, StreamsAreUpToABillionTokens) {
  const std::string text = "-f '" + directory_.write("text", std::string(300, 'a')).string() + "' ";
  for (const std::string& flags : {text + "-n 18446744073709551615", text + "-n 1000000001",
                                   std::string("--generate 18446744073709551615")}) {
    const Outcome outcome = run("vga-stream", "-w 16 " + flags);
    EXPECT_EQ(outcome.status, 1) << flags;
    EXPECT_NE(outcome.errors.find("not in range"), std::string::npos) << outcome.errors;
  }
}

TEST_F(Programs, ThreadsAreOneTo1023) {
  const std::string model = "'" + model_.string() + "'";
  for (const std::string& program :
       {"vga-generate -p a -m " + model, "vga-perplexity -p a -m " + model,
        "vga-quantize " + model + " out.gguf q8_0", std::string("vga-convert nothing --dry-run")}) {
    for (const char* n : {" -t 0", " -t 1024", " -t -1"}) {
      const Outcome outcome = test::run(program + n);
      EXPECT_EQ(outcome.status, 1) << program << n;
      EXPECT_NE(outcome.errors.find("--threads"), std::string::npos) << outcome.errors;
    }
  }
}

}  // namespace
}  // namespace vga::test
