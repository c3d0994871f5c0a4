/// Sequences that are copied: both go on as one does that has read the tokens itself.

#include <gtest/gtest.h>

#include "gguf_image.h"
#include "logits.h"
#include "vga/vga.h"
#include "vulkan_device.h"

namespace vga::test {
namespace {

class SessionCopy : public testing::Test {
 protected:
  Model load(const GgufImage& image, const ModelOptions& options = {}) const {
    return Model::load(directory_.write("m.gguf", image.bytes()), options);
  }
  static SessionOptions context(size_t n, DType cache_type = DType::f32) {
    return {
        .context = n, .n_sequences = 3, .n_threads = 1, .max_batch = 64, .cache_type = cache_type};
  }
  static SessionOptions window(size_t n, size_t keep) {
    return {.window = n,
            .keep = keep,
            .n_sequences = 3,
            .n_threads = 1,
            .max_batch = 32,
            .cache_type = DType::f32};
  }

  /// What both sequences say when they go on with different tokens, in the same batches, is what
  /// they say in `expected`, where each has read all that it holds.
  static void expect_same(Session& found, Session& expected, uint32_t from, uint32_t to,
                          DType cache_type = DType::f32) {
    for (size_t step = 0; step < 3; ++step) {
      std::vector<Row> rows;
      for (const uint32_t sequence : {to, from}) {
        const auto tokens = some_tokens(5, 10 * step + 5 * sequence);
        for (size_t i = 0; i < tokens.size(); ++i) {
          rows.push_back({tokens[i], found.length(sequence) + static_cast<int64_t>(i), sequence,
                          i + 1 == tokens.size()});
        }
      }
      const auto logits = found.decode(rows);
      EXPECT_TRUE(same_logits(logits, expected.decode(rows), tiny_vocab, cache_type)) << step;
    }
  }

  TemporaryDirectory directory_;
};

/// Tokens of `to` that were there before are gone, and `from` is what it was.
TEST_F(SessionCopy, GoesOnAsOneThatReadTheTokens) {
  const Model model = load(tiny_model(tiny_vocab, {AttentionGate::Source::value}, 32));
  const int64_t n = on_device() ? 270 : 520;
  const auto tokens = some_tokens(static_cast<size_t>(n));
  std::vector<int64_t> lengths = {1, 37, 255, 256, 257, 519, 520};
  if (on_device()) lengths = {37, 257};
  for (const DType type : {DType::f32, DType::f16, DType::q8_0}) {
    Session found(model, context(600, type));
    Session expected(model, context(600, type));
    for (Session* each : {&found, &expected}) each->prefill(tokens, 1);
    found.prefill(some_tokens(300, 5), 2);
    for (const int64_t length : lengths) {
      SCOPED_TRACE(std::string(name(type)) + ", " + std::to_string(length));
      found.copy(1, 2, length);
      ASSERT_EQ(found.length(2), length);
      expected.truncate(0, 2);
      expected.prefill(std::span(tokens).first(static_cast<size_t>(length)), 2);
      expect_same(found, expected, 1, 2, type);
      for (Session* each : {&found, &expected}) each->truncate(n, 1);
    }
  }
}

TEST_F(SessionCopy, CopiesOfCopiesAndOfNothing) {
  const Model model = load(tiny_model());
  Session found(model, context(300));
  Session expected(model, context(300));
  const auto tokens = some_tokens(100);
  found.prefill(tokens, 2);
  found.copy(2, 0, 60);
  found.copy(0, 1, 33);
  expected.prefill(std::span(tokens).first(60), 0);
  expected.prefill(std::span(tokens).first(33), 1);
  expect_same(found, expected, 0, 1);
  found.copy(1, 0, 0);
  EXPECT_EQ(found.length(0), 0);
  found.copy(2, 2, 20);  // onto itself, which is truncate()
  expected.prefill(std::span(tokens).first(20), 2);
  EXPECT_EQ(found.length(2), 20);
  expected.truncate(0, 0);
  expect_same(found, expected, 2, 0);
}

TEST_F(SessionCopy, WindowsAreCopiedAsFarAsTheyHold) {
  const Model model = load(tiny_model());
  const int64_t n = 700;
  const auto tokens = some_tokens(n);
  // Rings of two pages and of one, kept tokens in none, one and two.
  for (const auto& [size, keep] : {std::pair<size_t, size_t>{400, 0}, {200, 4}, {333, 270}}) {
    if (on_device() && size != 333) continue;
    Session found(model, window(size, keep));
    Session expected(model, window(size, keep));
    for (Session* each : {&found, &expected}) each->prefill(tokens, 0);
    found.prefill(some_tokens(50, 3), 1);
    for (const int64_t back : {0, 1, 16}) {
      SCOPED_TRACE("window " + std::to_string(size) + ", back " + std::to_string(back));
      found.copy(0, 1, n - back);
      expected.truncate(0, 1);
      expected.prefill(std::span(tokens).first(static_cast<size_t>(n - back)), 1);
      expect_same(found, expected, 0, 1);
      for (Session* each : {&found, &expected}) each->truncate(n, 0);
    }
  }
}

/// What a ring no longer holds for one sequence it does not hold for its copy.
TEST_F(SessionCopy, WhatAWindowSlidOverStaysGone) {
  const Model model = load(tiny_model());
  const auto tokens = some_tokens(1000);
  Session s(model, window(200, 4));  // see WindowSession.WhatWasOverwrittenCannotBeTakenBack
  s.prefill(tokens, 0);
  s.prefill(some_tokens(30, 3), 1);
  try {
    s.copy(0, 1, 938);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("at least 939"), std::string::npos) << error.what();
  }
  EXPECT_EQ(s.length(1), 30);
  Session expected(model, window(200, 4));
  expected.prefill(tokens, 0);
  expected.prefill(some_tokens(30, 3), 1);
  expect_same(s, expected, 0, 1);

  s.truncate(1000, 0);
  s.copy(0, 1, 960);
  EXPECT_THROW(s.truncate(938, 1), Error);
  s.truncate(954, 1);  // 1015 were written, of which the ring has 256
  Session fresh(model, window(200, 4));
  fresh.prefill(std::span(tokens).first(954), 1);
  fresh.prefill(tokens, 0);
  expect_same(s, fresh, 0, 1);
  // Kept tokens are always there, and their copy begins with a clean ring.
  s.copy(0, 1, 3);
  s.prefill(some_tokens(100, 8), 1);
  s.truncate(20, 1);
}

TEST_F(SessionCopy, WhatWasForgottenIsForgotten) {
  const Model model = load(tiny_model());
  const auto tokens = some_tokens(500);
  Session found(model, window(64, 5));
  Session expected(model, window(64, 5));
  for (Session* each : {&found, &expected}) {
    each->prefill(tokens, 0);
    each->forget(480, 0);
  }
  found.copy(0, 1, 495);
  expected.prefill(std::span(tokens).first(495), 1);
  expected.forget(480, 1);
  expect_same(found, expected, 0, 1);
}

TEST_F(SessionCopy, LayersWithWindowsOfTheirOwn) {
  const Model model = load(family_model(
      "gemma3", 6,
      [](GgufImage& image) {
        image.set("gemma3.context_length", 4000u);
        image.set("gemma3.attention.sliding_window", 8u);
      },
      [](Config&) {}));
  const auto tokens = some_tokens(600);
  Session found(model, context(700));
  Session expected(model, context(700));
  for (Session* each : {&found, &expected}) each->prefill(tokens, 0);
  EXPECT_THROW(found.copy(0, 1, 350), Error);
  found.copy(0, 1, 351);
  expected.prefill(std::span(tokens).first(351), 1);
  expect_same(found, expected, 0, 1);
  EXPECT_THROW(found.truncate(345, 1), Error);
}

TEST_F(SessionCopy, DeltaNetsAreCopiedWhole) {
  for (const bool has_experts : {false, true}) {
    const Model model = load(hybrid_model(tiny_vocab, has_experts));
    const auto tokens = some_tokens(300);
    Session found(model, context(400));
    Session expected(model, context(400));
    for (Session* each : {&found, &expected}) each->prefill(tokens, 2);
    found.prefill(tokens, 0);
    const Snapshot of_source = found.snapshot(2);
    const Snapshot of_target = found.snapshot(0);
    EXPECT_THROW(found.copy(2, 0, 299), CannotRewind);
    EXPECT_TRUE(of_target);
    found.copy(2, 0, 300);
    EXPECT_FALSE(of_target);
    expected.prefill(tokens, 0);
    expect_same(found, expected, 2, 0);
    found.restore(of_source, 2);
    EXPECT_THROW(found.restore(of_source, 0), Error);
    found.copy(2, 1, 300);
    expected.prefill(tokens, 1);
    expected.truncate(0, 2);
    expected.prefill(tokens, 2);
    expect_same(found, expected, 2, 1);
    found.copy(2, 0, 0);
    EXPECT_EQ(found.length(0), 0);
  }
}

/// Part of the layers on a device, the rest on the CPU: each copies its own.
TEST_F(SessionCopy, VulkanAndTheCpuCopyTheirLayers) {
  if (const std::string why = why_no_device(); !why.empty()) GTEST_SKIP() << why;
  for (const bool is_hybrid : {false, true}) {
    const Model model =
        load(is_hybrid ? hybrid_model() : tiny_model(), {.device = "vulkan", .device_layers = 1});
    Session found(model, context(300));
    Session expected(model, context(300));
    const auto tokens = some_tokens(270);
    for (Session* each : {&found, &expected}) each->prefill(tokens, 0);
    found.copy(0, 1, 270);
    expected.prefill(tokens, 1);
    expect_same(found, expected, 0, 1);
  }
}

TEST_F(SessionCopy, NamesWhatIsOutOfRange) {
  const Model model = load(tiny_model());
  Session s(model, context(100));
  s.prefill(some_tokens(20), 0);
  s.prefill(some_tokens(10), 1);
  EXPECT_THROW(s.copy(0, 3, 5), Error);
  EXPECT_THROW(s.copy(3, 0, 5), Error);
  EXPECT_THROW(s.copy(0, 1, 21), Error);
  EXPECT_THROW(s.copy(0, 1, -1), Error);
  EXPECT_EQ(s.length(0), 20);
  EXPECT_EQ(s.length(1), 10);
}

}  // namespace
}  // namespace vga::test
