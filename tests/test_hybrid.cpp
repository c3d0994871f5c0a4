// What the programs say of models with delta nets and experts.

#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "environment.h"
#include "gguf_image.h"
#include "logits.h"
#include "run_program.h"
#include "sanitized.h"
#include "vga/error.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

using nlohmann::json;

class Hybrid : public testing::Test {
 protected:
  Hybrid() {
    std::string text;
    for (size_t i = 0; i < 900; ++i) text += static_cast<char>('a' + i * i % 26);
    text_ = directory_.write("text.txt", text).string();
  }

  TemporaryDirectory directory_;
  std::string plain_ = directory_.write("plain.gguf", talking_hybrid_model().bytes()).string();
  std::string experts_ =
      directory_.write("experts.gguf", talking_hybrid_model(true).bytes()).string();
  std::string text_;
};

bool has(const Outcome& outcome, const std::string& text) {
  return outcome.output.find(text) != std::string::npos;
}

TEST_F(Hybrid, InspectSaysWhatLayersAre) {
  const Outcome text = run("vga-inspect '" + experts_ + "'");
  EXPECT_EQ(text.status, 0) << text.output;
  EXPECT_TRUE(has(text, "3 of 4 layers are delta nets")) << text.output;
  EXPECT_TRUE(has(text, "4 value heads over 2 key heads of 8, convolution over 4 tokens"));
  EXPECT_TRUE(has(text, "4 of 4 layers have 4 experts, of which a token takes 2 and a shared one"));
  const json report = json::parse(run("vga-inspect --json '" + plain_ + "'").output);
  EXPECT_EQ(report.at("layers").at(0).at("mixer"), "delta");
  EXPECT_EQ(report.at("layers").at(0).at("gate"), false);
  EXPECT_EQ(report.at("layers").at(3).at("mixer"), "attention");
  EXPECT_EQ(report.at("layers").at(3).at("gate"), true);
  // States are f32 in both: three layers of them.
  const uint64_t states = 3 * (3 * (2 * 16 + 32) + 32 * 8) * 4;
  const auto f16 = report.at("memory").at("cache_f16").get<uint64_t>() - states;
  EXPECT_EQ(report.at("memory").at("cache_f32").get<uint64_t>() - states, 2 * f16);
}

TEST_F(Hybrid, ProbeLooksAtStatesAndExperts) {
  const std::string command = "vga-probe -m '" + experts_ + "' -f '" + text_ +
                              "' --context 100 --blocks 4 --html '" +
                              (directory_.path() / "probe.html").string() + "' ";
  const Outcome text = run(command);
  EXPECT_EQ(text.status, 0) << text.output;
  EXPECT_TRUE(has(text, "state kept")) << text.output;
  EXPECT_TRUE(has(text, "load of the busiest")) << text.output;
  const json report = json::parse(run(command + "--json").output);
  const json& layers = report.at("layers");
  ASSERT_EQ(layers.size(), 4u);
  EXPECT_TRUE(layers[0].at("first_attention").empty());
  EXPECT_EQ(layers[3].at("first_attention").size(), 4u);
  EXPECT_FALSE(layers[3].contains("delta_decay"));
  for (size_t head = 0; head < 4; ++head) {
    const double decay = layers[1].at("delta_decay").at(head);
    const double half_life = layers[1].at("delta_half_life").at(head);
    const double strength = layers[1].at("delta_strength").at(head);
    EXPECT_TRUE(decay > 0 && decay < 1) << decay;
    EXPECT_TRUE(half_life > 0) << half_life;
    EXPECT_TRUE(strength > 0 && strength < 1) << strength;
  }
  for (const json& layer : layers) {
    double sum = 0;
    for (const double load : layer.at("expert_load")) sum += load;
    EXPECT_NEAR(sum, 1, 1e-9);
  }
}

TEST_F(Hybrid, StreamSpeaksOfTheOtherLayers) {
  const std::string command =
      "vga-stream -m '" + plain_ + "' -f '" + text_ + "' --window 40 --tokens 300 ";
  const Outcome text = run(command);
  EXPECT_TRUE(has(text, "3 of 4 layers are delta nets")) << text.output;
  EXPECT_TRUE(has(text, "verdict")) << text.output;
  EXPECT_NE(text.errors.find("note: 3 of 4 layers are delta nets"), std::string::npos);
  const json report = json::parse(run(command + "--json").output);
  ASSERT_EQ(report.at("layers").size(), 1u);
  EXPECT_EQ(report.at("layers").at(0).at("layer"), 3);
}

// A text of 901 tokens over and over, through windows of 40. VGA_LONG makes it 200,000 tokens.
TEST_F(Hybrid, NeitherMemoryNorTimeDrifts) {
  const bool is_long = !Variable::value_of("VGA_LONG").empty();
  const size_t n_tokens = is_long ? 200000 : on_device() ? 600 : 6000;
  const json report =
      json::parse(run("vga-stream -m '" + plain_ + "' -f '" + text_ +
                      "' --window 40 -t 1 --json --tokens " + std::to_string(n_tokens))
                      .output);
  EXPECT_EQ(report.at("tokens"), n_tokens);
  if (!sanitized && !on_device()) {
    const auto filled = report.at("process_bytes_filled").get<double>();
    EXPECT_LE(report.at("process_bytes").get<double>() - filled, 4096);
  }
  for (const json& policy : report.at("policies")) {
    EXPECT_TRUE(std::isfinite(policy.at("ppl").get<double>()));
    if (!is_long) continue;
    const double first = policy.at("seconds_per_token_first_10000");
    EXPECT_LT(policy.at("seconds_per_token_last_10000").get<double>(), 1.5 * first);
  }
}

TEST_F(Hybrid, PerplexityIn8BitsIsANumber) {
  const Outcome outcome =
      run("vga-perplexity -m '" + experts_ + "' -f '" + text_ + "' --context 100 --w8a8");
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_TRUE(has(outcome, "with weights and activations in 8 bits")) << outcome.output;
}

TEST_F(Hybrid, BenchGoesBackToItsDepth) {
  const Outcome outcome =
      run("vga-bench -m '" + plain_ + "' -p 20 -n 8 -d 0,30 -r 2 --output json");
  EXPECT_EQ(outcome.status, 0) << outcome.output;
}

/// As llama.cpp's converter writes them: with a block behind the last one that drafts tokens, and
/// the gate of the shared network as a matrix of one row.
TEST(HybridFiles, DraftBlocksAreLeftOut) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "model.gguf";
  const auto logits = [&](const GgufImage& image) {
    directory.write("model.gguf", image.bytes());
    const std::vector<Token> tokens = {1, 5, 3, 2, 9, 4, 4, 7, 11, 6};
    return logits_in_chunks(Model::load(path, {.device = "cpu"}), {.n_threads = 1}, tokens, 4);
  };
  GgufImage image = hybrid_model(32, true);
  const auto expected = logits(image);
  image.find_tensor("blk.1.ffn_gate_inp_shexp.weight")->dims = {32, 1};
  EXPECT_EQ(logits(image), expected);

  image.set("qwen35moe.block_count", uint32_t{5});
  image.set("qwen35moe.nextn_predict_layers", uint32_t{1});
  for (const char* name :
       {"nextn.eh_proj.weight", "nextn.hnorm.weight", "nextn.shared_head_norm.weight"}) {
    GgufImage::TensorImage tensor = *image.find_tensor("output_norm.weight");
    tensor.name = "blk.4." + std::string(name);
    image.tensors.push_back(std::move(tensor));
  }
  for (const char* name : {"attn_q.weight", "attn_norm.weight", "ffn_down_exps.weight"}) {
    GgufImage::TensorImage tensor = *image.find_tensor("blk.3." + std::string(name));
    tensor.name = "blk.4." + std::string(name);
    image.tensors.push_back(std::move(tensor));
  }
  EXPECT_EQ(logits(image), expected);

  // What no key speaks of is no draft.
  image.set("qwen35moe.block_count", uint32_t{4});
  image.remove("qwen35moe.nextn_predict_layers");
  EXPECT_THROW(logits(image), Error);
}

}  // namespace
}  // namespace vga::test
