/// Whole models on a Vulkan device against the CPU. Skipped where there is no device; any will do,
/// a driver that computes on the CPU too.

#include <algorithm>
#include <array>
#include <cstdlib>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "environment.h"
#include "gguf_image.h"
#include "logits.h"
#include "run_program.h"
#include "vga/vga.h"
#include "vulkan_device.h"

namespace vga::test {
namespace {

using namespace std::string_literals;

using Type = vulkan::DeviceInfo::Type;

const std::filesystem::path cases = std::filesystem::path(VGA_SOURCE_DIR) / "tests/data/cases";

#define SKIP_WITHOUT_DEVICE() \
  if (const std::string why = why_no_device(); !why.empty()) GTEST_SKIP() << why

std::vector<std::string> vulkan_cases() {
  std::vector<std::string> found;
  for (const auto& folder : std::filesystem::directory_iterator(cases)) {
    if (std::filesystem::exists(folder.path() / "tokens.json")) {
      found.push_back(folder.path().filename().string());
    }
  }
  std::ranges::sort(found);
  return found;
}

class VulkanCase : public testing::TestWithParam<std::string> {};

TEST_P(VulkanCase, LogitsEqualTheCpu) {
  SKIP_WITHOUT_DEVICE();
  const TemporaryDirectory directory;
  const auto file = directory.path() / "model.gguf";
  convert(cases / GetParam(), file, "f16");
  const auto tokens = nlohmann::json::parse(read_text(cases / GetParam() / "tokens.json"))
                          .get<std::vector<Token>>();
  const Model on_cpu = Model::load(file, {.device = "cpu"});
  const Model on_device = Model::load(file, {.device = "vulkan"});
  const Model split = Model::load(file, {.device = "vulkan", .device_layers = 1});
  const size_t vocab = on_cpu.config().vocab_size;
  for (const DType type : {DType::f16, DType::f32}) {
    const SessionOptions options = {.n_threads = 2, .cache_type = type};
    const auto expected = logits_in_chunks(on_cpu, options, tokens, tokens.size());
    for (const size_t chunk : {size_t{1}, size_t{5}, tokens.size()}) {
      EXPECT_LT(worst_error(logits_in_chunks(on_device, options, tokens, chunk), expected, vocab),
                1e-3)
          << name(type) << ", chunks of " << chunk;
    }
    EXPECT_LT(worst_error(logits_in_chunks(split, options, tokens, tokens.size()), expected, vocab),
              1e-3)
        << name(type) << ", split";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, VulkanCase, testing::ValuesIn(vulkan_cases()),
                         [](const auto& row) { return row.param; });

class Vulkan : public testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_DEVICE(); }

  TemporaryDirectory directory_;
  std::filesystem::path file_ = directory_.write("tiny.gguf", tiny_model(tiny_vocab).bytes());
};

// The context is split over workgroups, and the window slides over several pages.
TEST_F(Vulkan, LongContextsAndWindowsEqualTheCpu) {
  const auto tokens = some_tokens(700);
  const Model on_cpu = Model::load(file_, {.device = "cpu"});
  const Model on_device = Model::load(file_, {.device = "vulkan"});
  for (const auto& [window, keep] : {std::pair<size_t, size_t>{0, 0}, {300, 0}, {300, 5}}) {
    const SessionOptions options = {
        .context = window == 0 ? 700u : 0u, .window = window, .keep = keep, .n_threads = 1};
    const auto expected = logits_in_chunks(on_cpu, options, tokens, 100);
    for (const size_t chunk : {7, 256}) {
      EXPECT_LT(
          worst_error(logits_in_chunks(on_device, options, tokens, chunk), expected, tiny_vocab),
          1e-3)
          << "window " << window << ", keep " << keep << ", chunks of " << chunk;
    }
  }
}

// CPU and device round queries and steps of q8_0 in their own ways: what they share is how far off
// an exact cache they are.
TEST_F(Vulkan, RoundedCachesAreAsGoodAsTheCpus) {
  const auto tokens = some_tokens(700);
  const auto file = directory_.write("wide.gguf", tiny_model(tiny_vocab, {}, 32).bytes());
  const Model on_cpu = Model::load(file, {.device = "cpu"});
  const Model on_device = Model::load(file, {.device = "vulkan"});
  for (const auto& [window, keep] : {std::pair<size_t, size_t>{0, 0}, {300, 0}, {300, 5}}) {
    SessionOptions options = {.context = window == 0 ? 700u : 0u,
                              .window = window,
                              .keep = keep,
                              .n_threads = 1,
                              .cache_type = DType::f32};
    const auto exact = logits_in_chunks(on_cpu, options, tokens, 100);
    options.cache_type = DType::q8_0;
    const double allowed =
        1.25 * worst_error(logits_in_chunks(on_cpu, options, tokens, 100), exact, tiny_vocab);
    for (const size_t chunk : {7, 256}) {
      EXPECT_LT(worst_error(logits_in_chunks(on_device, options, tokens, chunk), exact, tiny_vocab),
                allowed)
          << "window " << window << ", keep " << keep << ", chunks of " << chunk;
    }
  }
}

TEST_F(Vulkan, SequencesOfOneBatchAreIndependent) {
  const auto tokens = some_tokens(40);
  const Model on_device = Model::load(file_, {.device = "vulkan"});
  const auto alone = logits_in_chunks(on_device, {}, tokens, 1);
  Session session(on_device, {.n_sequences = 2});
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::array rows = {Row{tokens[tokens.size() - 1 - i], static_cast<int64_t>(i), 1, false},
                             Row{tokens[i], static_cast<int64_t>(i), 0, true}};
    EXPECT_LT(worst_error(session.decode(rows),
                          std::span(alone).subspan(i * tiny_vocab, tiny_vocab), tiny_vocab),
              1e-4);
  }
}

TEST_F(Vulkan, SaysWhatItNeedsAndWhatIsFree) {
  try {
    Model::load(file_, {.device = "vulkan", .session = {.context = 1 << 24, .n_sequences = 4096}});
    FAIL() << "loaded";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("MiB free"), std::string::npos) << error.what();
  }
}

/// Makes the device poorer still while it lives.
class ForcedLimits : Variable {
 public:
  explicit ForcedLimits(const std::string& limits) : Variable(name, before() + limits) {}

 private:
  static constexpr const char* name = "VGA_VULKAN_LIMITS";
  static std::string before() {
    const std::string value = value_of(name);
    return value.empty() ? "" : value + ",";
  }
};

TEST_F(Vulkan, VgaDeviceIsTheDefault) {
  const auto runs_on = [&](const ModelOptions& options) {
    const Model model = Model::load(file_, options);
    return Session(model).description().substr(0, 4);
  };
  const std::string program = "vga-generate -m '" + file_.string() + "' -p a -n 1 ";
  {
    const Variable device("VGA_DEVICE", "vulkan");
    EXPECT_EQ(runs_on({}), "vulk");
    EXPECT_EQ(runs_on({.device = "cpu"}), "cpu ");
    EXPECT_NE(run(program).errors.find("vulkan"), std::string::npos);
    EXPECT_EQ(run(program + "--device cpu").errors.find("vulkan"), std::string::npos);
  }
  {
    const Variable device("VGA_DEVICE", "");
    EXPECT_EQ(runs_on({}), "cpu ");
    EXPECT_EQ(runs_on({.device = "vulkan"}), "vulk");
  }
  const Variable device("VGA_DEVICE", "abacus");
  const Outcome outcome = run(program);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.errors.find("VGA_DEVICE: no name of a device has 'abacus'"), std::string::npos)
      << outcome.errors;
  EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 1) << outcome.errors;
  EXPECT_EQ(run(program + "--device vulkan").status, 0);
}

// The same driver under two names stands for two drivers of one GPU: the loader offers both.
TEST_F(Vulkan, AGpuOfTwoDriversIsListedOnce) {
  std::string driver;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/usr/share/vulkan/icd.d", none)) {
    if (entry.path().filename().string().starts_with("lvp_")) driver = entry.path().string();
  }
  if (driver.empty()) GTEST_SKIP() << "lavapipe is not installed";
  const std::string twin = directory_.write("twin.json", read_text(driver)).string();
  const auto listed = [](const std::string& drivers) {
    const Variable variable("VK_ICD_FILENAMES", drivers);
    const Outcome outcome = run("vga-generate --list-devices");
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    return outcome.output;
  };
  const std::string once = listed(driver);
  EXPECT_NE(once.find("vulkan:0"), std::string::npos) << once;
  EXPECT_EQ(listed(driver + ":" + twin), once);
}

// A model that has found no room is the CPU's, whole.
TEST_F(Vulkan, AutoWithoutRoomIsTheCpu) {
  const auto tokens = some_tokens(20);
  const Model on_cpu = Model::load(file_, {.device = "cpu"});
  Session expected(on_cpu);
  for (const auto& [limits, where] :
       {std::pair("discrete", "vulk"), {"discrete,memory=1000", "cpu "}}) {
    const ForcedLimits forced(limits);
    const Model model = Model::load(file_, {.device = "auto"});
    Session session(model);
    EXPECT_EQ(session.description().substr(0, 4), where);
    EXPECT_LT(worst_error(prefill(session, tokens), prefill(expected, tokens), tiny_vocab), 1e-3);
    expected.truncate(0);
  }
}

// What a user of the shipped model sees.
TEST_F(Vulkan, TheShippedModelTellsTheSameStory) {
  const auto file = directory_.path() / "stories.gguf";
  convert(std::filesystem::path(VGA_SOURCE_DIR) / "models/vga-stories", file, "f16");
  const std::string model = " -m '" + file.string() + "' --device ";
  const std::string tell =
      "vga-generate -p 'Once upon a time' --temp 0 --ignore-end -n 60 --no-echo" + model;
  const Outcome story = run(tell + "cpu");
  ASSERT_GT(story.output.size(), 150u) << story.errors;
  EXPECT_EQ(run(tell + "vulkan").output, story.output);
  const std::string text = directory_.write("story", story.output).string();
  const auto perplexity = [&](const std::string& device) {
    const Outcome outcome = run("vga-perplexity --json -c 32 -f '" + text + "'" + model + device);
    return nlohmann::json::parse(outcome.output).at("perplexity").get<double>();
  };
  const double expected = perplexity("cpu");
  EXPECT_NEAR(perplexity("vulkan"), expected, 0.001 * expected);
}

// Wherever it happens: while a device is opened, weights are copied, work is recorded or waited
// for. The validation layers, where they are on, see whether all that was made is destroyed.
TEST_F(Vulkan, LosingTheDeviceIsAnError) {
  const auto tokens = some_tokens(5);
  size_t n_lost = 0;
  for (size_t calls = 1;; calls += 1 + calls / 10) {
    const ForcedLimits forced("lose=" + std::to_string(calls));
    try {
      const Model model = Model::load(file_, {.device = "vulkan"});
      Session session(model);
      session.prefill(tokens);
      session.append(1);
      session.likeliest(3);
      break;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("device was lost"), std::string::npos)
          << error.what();
      ++n_lost;
    }
  }
  EXPECT_GT(n_lost, 20u);
}

// While they load, and in the middle of their work.
TEST_F(Vulkan, ProgramsThatLoseTheDeviceEndInOneLine) {
  const std::string text = directory_.write("text", std::string(6000, 'a')).string();
  for (const int calls : {20, 500}) {
    const ForcedLimits forced("lose=" + std::to_string(calls));
    for (const std::string& program :
         {"vga-generate -p a --window 32 -n 300 --ignore-end"s, "vga-perplexity --json -f " + text,
          "vga-bench -p 16 -n 16 -r 100"s, "vga-stream --window 16 -f " + text,
          "vga-probe -c 16 -f " + text}) {
      const Outcome outcome = run(program + " --device vulkan -m '" + file_.string() + "'");
      EXPECT_EQ(outcome.status, 1) << program;
      EXPECT_NE(outcome.errors.find("device was lost"), std::string::npos) << outcome.errors;
      EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 1) << outcome.errors;
    }
  }
}

TEST_F(Vulkan, ChatsThatLoseTheDeviceAreAtTheirEnd) {
  const std::string messages = directory_.write("messages", "a\nb\nc\nd\n").string();
  const ForcedLimits forced("lose=500");
  const Outcome outcome =
      run("vga-chat --window 32 -n 100 --device vulkan -m '" + file_.string() + "'", messages);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.errors.find("/help for commands"), std::string::npos) << outcome.errors;
  const size_t lost = outcome.errors.find("device was lost");
  ASSERT_NE(lost, std::string::npos) << outcome.errors;
  EXPECT_EQ(outcome.errors.find('\n', lost), outcome.errors.size() - 1) << outcome.errors;
}

// What is used in place takes no room.
TEST_F(Vulkan, CountsWhatIsCopied) {
  const Config config = Model::load(file_, {.device = "cpu"}).config();
  const SessionOptions session = {.max_batch = 16};
  const uint64_t needed = session_bytes(config, session, config.n_layers()) + (64 << 20);
  const ModelOptions options = {.device = "vulkan", .session = session};
  {
    const ForcedLimits forced("memory=" + std::to_string(needed - 1));
    EXPECT_THROW(Model::load(file_, options), Error);
  }
  {
    const ForcedLimits forced("no-import,memory=" + std::to_string(needed));
    EXPECT_THROW(Model::load(file_, options), Error);
  }
  const std::string limits = Variable::value_of("VGA_VULKAN_LIMITS");
  if (limits.find("no-import") != std::string::npos) return;
  if (limits.find("discrete") != std::string::npos) return;
  const ForcedLimits forced("memory=" + std::to_string(needed));
  const Model model = Model::load(file_, options);
  Session(model, session).prefill(some_tokens(20));
}

using Keys = std::vector<std::pair<std::string, uint32_t>>;

GgufImage family_image(const std::string& family, size_t n_layers, const Keys& keys) {
  return family_model(
      family, n_layers,
      [&](GgufImage& image) {
        for (const auto& [key, value] : keys) {
          image.set(std::string(family).append(1, '.').append(key), value);
        }
      },
      [](Config&) {});
}

/// Three delta nets, three value heads of each for a key head, and an attention layer.
GgufImage many_values_model() {
  return family_image("qwen35", 4,
                      {{"ssm.conv_kernel", 4},
                       {"ssm.state_size", 16},
                       {"ssm.group_count", 2},
                       {"ssm.time_step_rank", 6},
                       {"ssm.inner_size", 96},
                       {"rope.dimension_count", 4}});
}

/// A dense layer, then those with experts; windows, and a layer that sees everything.
GgufImage expert_model() {
  return family_image("afmoe", 5,
                      {{"embedding_length", 48},
                       {"attention.sliding_window", 8},
                       {"expert_count", 8},
                       {"expert_used_count", 3},
                       {"expert_shared_count", 1},
                       {"expert_feed_forward_length", 32},
                       {"leading_dense_block_count", 1}});
}

// Whole, in chunks of several sizes and with layers of each kind on either side.
TEST_F(Vulkan, HybridsAndExpertsEqualTheCpu) {
  const auto tokens = some_tokens(60);
  for (const GgufImage& image : {many_values_model(), expert_model()}) {
    const auto file = directory_.write("model.gguf", image.bytes());
    const Model on_cpu = Model::load(file, {.device = "cpu"});
    const SessionOptions options = {.n_threads = 1, .cache_type = DType::f32};
    const auto expected = logits_in_chunks(on_cpu, options, tokens, tokens.size());
    for (const size_t device_layers : {on_cpu.config().n_layers(), size_t{3}, size_t{1}}) {
      const Model model = Model::load(file, {.device = "vulkan", .device_layers = device_layers});
      for (const size_t chunk : {size_t{1}, size_t{7}, tokens.size()}) {
        EXPECT_LT(
            worst_error(logits_in_chunks(model, options, tokens, chunk), expected, tiny_vocab),
            1e-3)
            << on_cpu.config().family << ", " << device_layers << " layers, chunks of " << chunk;
      }
    }
  }
}

class VulkanHybrid : public Vulkan {
 protected:
  std::filesystem::path hybrid_ = directory_.write("hybrid.gguf", hybrid_model().bytes());
};

TEST_F(VulkanHybrid, StatesAreCounted) {
  const Config config = Model::load(hybrid_, {.device = "cpu"}).config();
  const SessionOptions session = {.context = 16, .n_sequences = 64, .max_batch = 64};
  const uint64_t needed = session_bytes(config, session, config.n_layers()) + (64 << 20);
  const ModelOptions options = {.device = "vulkan", .session = session};
  {
    const ForcedLimits forced("memory=" + std::to_string(needed - 1));
    EXPECT_THROW(Model::load(hybrid_, options), Error);
  }
  const ForcedLimits forced("memory=" + std::to_string(needed + (1 << 20)));  // and weights
  const Model on_device = Model::load(hybrid_, options);
  const Model on_cpu = Model::load(hybrid_, {.device = "cpu"});
  Session found(on_device, session);
  Session expected(on_cpu, session);
  for (int64_t position = 0; position < 3; ++position) {
    std::vector<Row> rows;
    for (uint32_t sequence = 0; sequence < 64; ++sequence) {
      rows.push_back({static_cast<Token>((7 * sequence + 3 * position) % tiny_vocab), position,
                      sequence, true});
    }
    EXPECT_LT(worst_error(found.decode(rows), expected.decode(rows), tiny_vocab), 1e-3) << position;
  }
}

TEST_F(VulkanHybrid, GoesOnFromSnapshots) {
  const auto tokens = some_tokens(30);
  for (const size_t device_layers : {4u, 2u}) {
    const Model model = Model::load(hybrid_, {.device = "vulkan", .device_layers = device_layers});
    Snapshot snapshot;
    {
      Session session(model, {.n_sequences = 2, .n_threads = 1, .max_batch = 10});
      session.prefill(std::span(tokens).first(12), 1);
      session.prefill(std::span(tokens).first(5), 0);
      snapshot = session.snapshot(1);
      const auto go_on = [&] {
        const auto logits = [&](Token token) {
          const auto found = session.decode(token, 1);
          return std::vector<float>(found.begin(), found.end());
        };
        session.prefill(std::span(tokens).subspan(15, 10), 1);
        return logits(tokens[3]);
      };
      const auto once = go_on();
      session.restore(snapshot, 1);
      EXPECT_EQ(go_on(), once);
      session.restore(snapshot, 1);
      EXPECT_EQ(go_on(), once);
      EXPECT_TRUE(snapshot);
    }
    EXPECT_FALSE(snapshot);
  }
}

// Logits of a whole batch of a large vocabulary are computed in pieces, and a piece is counted.
TEST_F(Vulkan, LogitsTakeNoMoreThanWhatIsCounted) {
  constexpr size_t many = 100000;
  const auto file = directory_.write("words.gguf", tiny_model(many).bytes());
  const Model on_cpu = Model::load(file, {.device = "cpu"});
  const Config& config = on_cpu.config();
  const SessionOptions options = {.context = 320, .n_threads = 1, .max_batch = 320};
  const uint64_t needed = session_bytes(config, options, config.n_layers()) + (64 << 20) +
                          on_cpu.weight_bytes() + (1 << 20);  // if they are copied
  ASSERT_LT(needed, 320 * many * sizeof(float));
  const ForcedLimits forced("memory=" + std::to_string(needed));
  const Model on_device = Model::load(file, {.device = "vulkan", .session = options});
  Session session(on_device, options);
  std::vector<Row> rows;
  for (const Token token : some_tokens(320)) {
    rows.push_back({token, static_cast<int64_t>(rows.size()), 0, true});
  }
  const auto found = session.decode(rows);
  EXPECT_LT(worst_error(found, Session(on_cpu, options).decode(rows), many), 1e-3);
  const auto likeliest = session.likeliest(3);
  std::array<Candidate, 3> expected;
  for (const size_t row : {0, 63, 64, 319}) {
    find_likeliest(found.subspan(row * many, many), expected);
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(likeliest[3 * row + i].token, expected[i].token);
  }
}

TEST_F(Vulkan, BatchesBeyondWhatTheDeviceBindsAreAnError) {
  const ForcedLimits forced("range=200000");
  const Model model = Model::load(file_, {.device = "vulkan"});
  Session session(model, {.context = 4096, .max_batch = 4096});
  try {
    session.prefill(some_tokens(4096));
    FAIL() << "was computed";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("smaller batch"), std::string::npos) << error.what();
  }
  EXPECT_EQ(session.length(), 0);
  const Model on_cpu = Model::load(file_, {.device = "cpu"});
  Session other(on_cpu);
  const auto tokens = some_tokens(20);
  EXPECT_LT(worst_error(prefill(session, tokens), prefill(other, tokens), tiny_vocab), 1e-3);
}

vulkan::DeviceInfo device(const char* name, Type type) {
  return {.name = name, .type = type, .driver = "", .memory = 1, .free = 1, .unfit = ""};
}

TEST(DeviceChoice, PrefersDiscreteThenIntegratedAndNoCpuUnlessNamed) {
  const std::vector devices = {device("llvmpipe (LLVM)", Type::cpu),
                               device("Intel Iris Xe", Type::integrated),
                               device("GeForce RTX 4060", Type::discrete)};
  EXPECT_EQ(choose_device(devices, {"auto"}), 2u);
  EXPECT_EQ(choose_device(devices, {"vulkan"}), 2u);
  EXPECT_EQ(choose_device(std::span(devices).first(2), {"auto"}), 1u);
  EXPECT_THROW(choose_device(std::span(devices).first(1), {"auto"}), Error);
  EXPECT_EQ(choose_device(std::span(devices).first(1), {"vulkan"}), 0u);
  EXPECT_EQ(choose_device(devices, {"iris"}), 1u);
  EXPECT_EQ(choose_device(devices, {"LLVM"}), 0u);
  EXPECT_EQ(choose_device(devices, {"vulkan:1"}), 1u);
  for (const char* wrong : {"", "vulkan:3", "vulkan:x", "vulkan:", "radeon"}) {
    EXPECT_THROW(choose_device(devices, {wrong}), Error) << wrong;
  }
}

TEST(DeviceChoice, LeavesOutWhatCannotBeUsed) {
  std::vector devices = {device("old", Type::discrete), device("new", Type::integrated)};
  devices[0].unfit = "too old";
  EXPECT_EQ(choose_device(devices, {"auto"}), 1u);
  EXPECT_THROW(choose_device(devices, {"vulkan:0"}), Error);
}

}  // namespace
}  // namespace vga::test
