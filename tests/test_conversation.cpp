/// A chat whose oldest turns leave the window: what the model still sees must be a conversation as
/// its format has it, the opening and whole turns.

#include <algorithm>

#include <gtest/gtest.h>

#include "gguf_image.h"
#include "logits.h"
#include "run_program.h"
#include "vga/conversation.h"
#include "vga/thoughts.h"

namespace vga::test {
namespace {

/// One layer, so that what is cached of a token does not depend on what that token saw: a
/// conversation that forgot turns must then equal one that never had them.
GgufImage one_layer_model() {
  constexpr size_t vocab = 48;
  GgufImage image = tiny_model(vocab);
  image.set("vga.block_count", uint32_t{1});
  std::erase_if(image.tensors, [](const auto& t) { return t.name.starts_with("blk.1."); });
  std::vector<std::string> tokens = {"<unk>",
                                     "<s>",
                                     "</s>",
                                     "<|im_start|>",
                                     "<|im_end|>",
                                     "[INST]",
                                     "[/INST]",
                                     "<<SYS>>",
                                     "<</SYS>>",
                                     "<|eot_id|>",
                                     "<|start_header_id|>",
                                     "<|end_header_id|>",
                                     "\xE2\x96\x81"};
  const size_t n_marks = tokens.size() - 1;
  for (char c = 'a'; c <= 'z'; ++c) tokens.push_back(std::string(1, c));
  while (tokens.size() < vocab)
    tokens.push_back(std::string(1, static_cast<char>('0' + vocab - tokens.size())));
  std::string types;
  for (size_t i = 0; i < vocab; ++i) types += raw<int32_t>(i == 0 ? 2 : i < n_marks ? 3 : 1);
  image.set_strings("tokenizer.ggml.tokens", tokens);
  image.set_array("tokenizer.ggml.token_type", GgufType::i32, vocab, types);
  return image;
}

const std::vector<std::string> messages = {"who are you",
                                           "tell me more",
                                           "xylophones",
                                           "and then",
                                           "why",
                                           "no",
                                           "a much longer message than the others",
                                           "go on",
                                           "hm",
                                           "what",
                                           "the last but one",
                                           "yes"};

class ConversationTest : public testing::TestWithParam<const char*> {
 protected:
  static constexpr size_t window = 160;

  Conversation conversation(size_t n_window = window, bool keeps_opening = true, size_t keep = 0) {
    const SessionOptions options{.window = n_window,
                                 .keep = keep,
                                 .n_threads = 1,
                                 .max_batch = 32,
                                 .cache_type = DType::f32};
    return Conversation(model_, options, {.temperature = 0}, ChatTemplate::named(GetParam()),
                        keeps_opening);
  }
  static std::string ask(Conversation& chat, const std::string& message, size_t n) {
    return chat
        .ask(
            message, n, [](std::string_view) {}, [] { return true; })
        .text;
  }

  TemporaryDirectory directory_;
  Model model_ = Model::load(directory_.write("one.gguf", one_layer_model().bytes()));
};

TEST_P(ConversationTest, WhatIsForgottenLeavesAWholeConversation) {
  size_t compared = 0;
  const size_t step = on_device() ? messages.size() / 2 : 1;
  for (size_t n = 1; n <= 2 * messages.size(); n += step) {
    const auto start = [&] {
      Conversation chat = conversation();
      chat.set_system("be kind");
      return chat;
    };
    Conversation chat = start();
    for (size_t i = 0; i < n; ++i) ask(chat, messages[i % messages.size()], 0);
    EXPECT_EQ(chat.turns().size() + chat.forgotten_turns(), n);
    EXPECT_EQ(chat.forgotten_turns() > 0, chat.forgotten_tokens() > 0);

    // Only the turns in view, from the beginning.
    Conversation fresh = start();
    for (const Turn& turn : chat.turns()) ask(fresh, turn.user, 0);
    EXPECT_EQ(fresh.forgotten_turns(), 0u);
    const std::string answer = ask(chat, "one more", 6);
    EXPECT_EQ(answer, ask(fresh, "one more", 6)) << n;
    compared += chat.forgotten_turns() > 0 && !answer.empty() ? 1 : 0;
  }
  EXPECT_GT(compared, messages.size() / 2 / step);
}

TEST_P(ConversationTest, GoesOnForEverInBoundedMemory) {
  // On a driver that computes on the CPU each takes its time.
  const size_t n_turns = on_device() ? 25 : 200;
  for (const bool keeps_opening : {true, false}) {
    Conversation chat = conversation(window, keeps_opening, keeps_opening ? 0 : 4);
    size_t longest = 0;
    for (size_t i = 0; i < n_turns; ++i) {
      ask(chat, messages[i % messages.size()], 20);
      longest = std::max(longest, chat.turns().size());
    }
    EXPECT_LT(longest, 20u);
    EXPECT_EQ(chat.turns().size() + chat.forgotten_turns(), n_turns);
    EXPECT_EQ(chat.turns().back().user, messages[(n_turns - 1) % messages.size()]);
  }
}

TEST_P(ConversationTest, ATurnThatFillsTheWindowEndsThere) {
  Conversation chat = conversation();
  ask(chat, "who are you", 3);
  // The tiny model may end an answer by itself; ask until one is cut.
  bool cut = false;
  for (size_t i = 0; i < messages.size() && !cut; ++i) {
    const auto answer = chat.ask(
        messages[i], SIZE_MAX, [](std::string_view) {}, [] { return true; });
    cut = answer.context_full;
    EXPECT_TRUE(!cut || chat.turns().size() == 1);
  }
  ask(chat, "go on", 3);
  EXPECT_EQ(chat.turns().back().user, "go on");
}

TEST_P(ConversationTest, WhatDoesNotFitIsRefusedBeforeAnythingChanges) {
  Conversation chat = conversation();
  ask(chat, "who are you", 3);
  const int64_t length = chat.session().length();
  EXPECT_THROW(ask(chat, std::string(400, 'a'), 3), ContextFull);
  EXPECT_EQ(chat.session().length(), length);
  EXPECT_EQ(chat.turns().size(), 1u);
  EXPECT_THROW(chat.set_system(std::string(400, 'a')), Error);
  EXPECT_EQ(chat.system(), "");
  EXPECT_EQ(chat.turns().size(), 1u);
}

TEST_P(ConversationTest, ASavedConversationMayBeLongerThanTheWindow) {
  Conversation chat = conversation();
  std::vector<Turn> turns;
  for (const std::string& message : messages) turns.push_back({message, "abc"});
  EXPECT_TRUE(chat.replay("be kind", turns, [] { return true; }));
  EXPECT_GT(chat.forgotten_turns(), 0u);
  EXPECT_EQ(chat.turns().back().user, messages.back());
  EXPECT_EQ(chat.turns().back().answer, "abc");
}

// A message of several batches, stopped after each of them.
TEST_P(ConversationTest, AMessageThatIsNotReadToItsEndIsTakenBack) {
  const std::string message(100, 'a');
  for (size_t n_before : {0, 1, 5}) {
    bool stopped = true;
    for (size_t n_batches = 1; stopped; ++n_batches) {
      Conversation chat = conversation(window * 4);
      for (size_t i = 0; i < n_before; ++i) ask(chat, messages[i], 3);
      const int64_t length = chat.session().length();
      size_t seen = 0;
      const auto answer = chat.ask(
          message, 3, [](std::string_view) {}, [&] { return ++seen < n_batches; });
      stopped = answer.taken_back;
      if (!stopped) continue;
      EXPECT_EQ(answer.text, "");
      EXPECT_LE(chat.session().length(), length);
      EXPECT_EQ(chat.turns().size(), n_before);
      Conversation fresh = conversation(window * 4);
      for (size_t i = 0; i < n_before; ++i) ask(fresh, messages[i], 3);
      EXPECT_EQ(ask(chat, "go on", 6), ask(fresh, "go on", 6));
    }
  }
}

// Also in a window so short that turns had to go for it, and again and again.
TEST_P(ConversationTest, WhatWentForAMessageThatIsTakenBackStaysForgotten) {
  Conversation chat = conversation(window + 80);
  for (size_t i = 0; i < 30; ++i) {
    ask(chat, messages[i % messages.size()], 0);
    const auto answer = chat.ask(
        std::string(70 + i, 'a'), 3, [](std::string_view) {}, [] { return false; });
    EXPECT_TRUE(answer.taken_back);
    EXPECT_EQ(chat.turns().size() + chat.forgotten_turns(), i + 1);
  }
  Conversation fresh = conversation(window + 80);
  for (const Turn& turn : chat.turns()) ask(fresh, turn.user, 0);
  EXPECT_GT(chat.forgotten_turns(), 0u);
  EXPECT_EQ(ask(chat, "one more", 6), ask(fresh, "one more", 6));
}

TEST_P(ConversationTest, ASavedConversationThatIsNotReadLeavesNothing) {
  Conversation chat = conversation();
  const std::string longer(100, 'a');
  EXPECT_FALSE(chat.replay("", {{"who are you", "abc"}, {longer, "abc"}}, [] { return false; }));
  EXPECT_EQ(chat.turns().size(), 0u);
  EXPECT_EQ(chat.session().length(), 0);
  EXPECT_THROW(chat.replay("", {{"who", "abc"}, {std::string(400, 'a'), ""}}, [] { return true; }),
               ContextFull);
  EXPECT_EQ(chat.turns().size(), 0u);
  EXPECT_EQ(chat.session().length(), 0);
}

// What was said before is no repetition any more.
TEST_P(ConversationTest, ClearedIsAsGoodAsNew) {
  const SamplerOptions sampler{.temperature = 0, .repeat_penalty = 3};
  Conversation chat(model_, {.context = 400, .n_threads = 1}, sampler,
                    ChatTemplate::named(GetParam()));
  const std::string first = ask(chat, "why", 12);
  ask(chat, "tell me more", 8);
  chat.clear();
  EXPECT_EQ(ask(chat, "why", 12), first);
}

INSTANTIATE_TEST_SUITE_P(Formats, ConversationTest,
                         testing::Values("chatml", "llama2", "llama3", "llama3.1", "zephyr",
                                         "mistral", "mistral-v1", "mistral-v3", "mistral-v3-tekken",
                                         "mistral-v7", "mistral-v7-tekken", "qwen3"),
                         [](const auto& row) {
                           std::string text(row.param);
                           std::ranges::replace_if(
                               text, [](char c) { return !std::isalnum(c); }, '_');
                           return text;
                         });

/// Pieces of an answer, thoughts in brackets.
std::string told(bool begins_inside, const std::vector<std::string>& pieces) {
  std::string out;
  Thoughts thoughts(begins_inside, [&](std::string_view text, bool is_thought) {
    out += is_thought ? "[" + std::string(text) + "]" : std::string(text);
  });
  for (const std::string& piece : pieces) thoughts.add(piece);
  thoughts.finish();
  return out;
}

TEST(Chat, TellsThoughtsFromAnswers) {
  EXPECT_EQ(told(false, {"<think>\nHm.\n</think>\n\nOh"}), "[<think>\nHm.\n</think>]\n\nOh");
  EXPECT_EQ(told(false, {"\n<th", "ink>a</thi", "nk", ">b"}), "\n[<think>a][</think>]b");
  EXPECT_EQ(told(true, {"a</think>b</think>"}), "[a</think>]b</think>");
  EXPECT_EQ(told(true, {"a</thi", "s"}), "[a][</this]");
  EXPECT_EQ(told(false, {"<thin"}), "<thin");
  EXPECT_EQ(told(false, {"Oh <think>a</think>"}), "Oh <think>a</think>");
}

// What a model thought is read once, and is gone when the next message is.
TEST(Chat, ThoughtsAreReadOnce) {
  const TemporaryDirectory directory;
  const Model model = Model::load(directory.write("one.gguf", one_layer_model().bytes()));
  const auto length = [&](const std::string& answer) {
    Conversation chat(model, {.context = 400, .n_threads = 1}, {}, ChatTemplate::named("qwen3"));
    chat.replay("", {{"why", answer}, {"and", "no"}}, [] { return true; });
    return chat.session().length();
  };
  EXPECT_EQ(length("<think>abc</think>so"), length("so"));
  EXPECT_GT(length("abcso"), length("so"));
}

TEST(Chat, TakesATemplateFromAFile) {
  const TemporaryDirectory directory;
  const std::string model = directory.write("one.gguf", one_layer_model().bytes()).string();
  const auto chat = [&](const std::string& jinja) {
    const std::string file = directory.write("template", jinja).string();
    const std::string script = directory.write("script", "abc\n").string();
    return run("vga-chat -n 4 --temp 0 -m '" + model + "' --chat-template '" + file + "'", script);
  };
  const std::string jinja =
      "{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' }}{% endfor %}";
  const Outcome good = chat(jinja);
  EXPECT_EQ(good.status, 0) << good.errors;
  EXPECT_NE(good.output, "");
  const Outcome marked = chat("\xEF\xBB\xBF" + jinja);
  EXPECT_EQ(marked.output, good.output);
  EXPECT_NE(marked.errors.find("byte order mark"), std::string::npos) << marked.errors;
  const Outcome bad = chat("\n{% include 'x' %}");
  EXPECT_EQ(bad.status, 1);
  EXPECT_NE(bad.errors.find("line 2: the tag 'include' is not known here"), std::string::npos)
      << bad.errors;
}

// A template of the file that cannot be run is refused with what else there is, not guessed.
TEST(Chat, RefusesATemplateThatCannotBeRun) {
  const TemporaryDirectory directory;
  GgufImage image = one_layer_model();
  image.set("tokenizer.chat_template", "{% include 'x' %}<|im_start|>");
  const std::string model = directory.write("one.gguf", image.bytes()).string();
  const Outcome refused = run("vga-chat -m '" + model + "'");
  EXPECT_EQ(refused.status, 1);
  EXPECT_NE(refused.errors.find("'include'"), std::string::npos) << refused.errors;
  EXPECT_NE(refused.errors.find("--chat-template takes another: chatml"), std::string::npos)
      << refused.errors;
  const Outcome named = run("vga-chat -m '" + model + "' --chat-template chatml");
  EXPECT_EQ(named.status, 0) << named.errors;
  EXPECT_NE(named.errors.find("--system gives one"), std::string::npos) << named.errors;
}

TEST(Chat, WarnsOfAFormatThatIsNotTheModels) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("one.gguf", one_layer_model().bytes()).string();
  const std::string other = directory.write("tiny.gguf", tiny_model().bytes()).string();
  const auto chat = [](const std::string& model, const std::string& format) {
    return run("vga-chat -m '" + model + "' --chat-template '" + format + "'");
  };
  for (const std::string format : {"chatml", "llama3"}) {
    EXPECT_EQ(chat(file, format).errors.find("warning"), std::string::npos) << format;
    const Outcome outcome = chat(other, format);
    EXPECT_EQ(outcome.status, 0);
    EXPECT_TRUE(outcome.errors.starts_with("warning: chat format " + format)) << outcome.errors;
  }
  for (const std::string format : {"none", "mistral", "zephyr"}) {
    EXPECT_EQ(chat(other, format).errors.find("warning"), std::string::npos) << format;
  }
  const Outcome empty = chat(file, "");
  EXPECT_EQ(empty.status, 1);
  EXPECT_NE(empty.errors.find("one of " + ChatTemplate::names()), std::string::npos)
      << empty.errors;
}

}  // namespace
}  // namespace vga::test
