/// PEFT folders that become no adapter: one clear line says why.

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "gguf_image.h"
#include "run_program.h"

namespace vga::test {
namespace {

namespace fs = std::filesystem;

const fs::path test_data = fs::path(VGA_SOURCE_DIR) / "tests/data";

std::string quoted(const fs::path& path) {
  return "'" + path.string() + "'";
}

struct BadFolder {
  const char* name;
  void (*change)(nlohmann::json& config, const fs::path& folder);
  std::vector<const char*> says;
};

std::ostream& operator<<(std::ostream& out, const BadFolder& bad) {
  return out << bad.name;
}

/// Spells a name in the header of the safetensors file in another way, of the same length.
void respell(const fs::path& folder, const std::string& from, const std::string& to) {
  const fs::path file = folder / "adapter_model.safetensors";
  std::string bytes = read_text(file);
  ASSERT_EQ(from.size(), to.size());
  const size_t at = bytes.find(from);
  ASSERT_NE(at, bytes.npos) << from;
  bytes.replace(at, from.size(), to);
  std::ofstream(file, std::ios::binary) << bytes;
}

const BadFolder bad_folders[] = {
    {"AnotherKind", [](auto& c, auto&) { c["peft_type"] = "IA3"; }, {"peft_type", "LORA", "IA3"}},
    {"NoKind", [](auto& c, auto&) { c.erase("peft_type"); }, {"peft_type"}},
    {"Dora", [](auto& c, auto&) { c["use_dora"] = true; }, {"use_dora", "DoRA"}},
    {"BiasesInUpdates", [](auto& c, auto&) { c["lora_bias"] = true; }, {"lora_bias"}},
    {"Pissa",
     [](auto& c, auto&) { c["init_lora_weights"] = "pissa_niter_4"; },
     {"init_lora_weights", "pissa"}},
    {"LayersTwice",
     [](auto& c, auto&) {
       c["layer_replication"] = {{0, 2}, {1, 2}};
     },
     {"layer_replication"}},
    {"AloraTokens",
     [](auto& c, auto&) { c["alora_invocation_tokens"] = {1}; },
     {"alora_invocation"}},
    {"AnotherBias", [](auto& c, auto&) { c["bias"] = "some"; }, {"bias", "some"}},
    {"NoRank", [](auto& c, auto&) { c.erase("r"); }, {"'r'"}},
    {"AnotherRank", [](auto& c, auto&) { c["r"] = 5; }, {"q_proj.lora_A", "5 rows", "(4, 48)"}},
    {"NoRankButUpdates",
     [](auto& c, auto&) {
       c["r"] = 0;
       c["rank_pattern"] = {{".*", 4}};
     },
     {"'r'", "gates alone", "lora_A"}},
    {"NoAlpha", [](auto& c, auto&) { c["lora_alpha"] = nullptr; }, {"lora_alpha"}},
    {"AnAlphaOfZero", [](auto& c, auto&) { c["lora_alpha"] = 0; }, {"lora_alpha", "positive"}},
    {"ABadPattern",
     [](auto& c, auto&) {
       c["alpha_pattern"] = {{"(q_proj", 3}};
     },
     {"alpha_pattern", "(q_proj"}},
    {"AnEndlessPattern",
     [](auto& c, auto&) {
       c["alpha_pattern"] = {{"(.*)*(.*.*.*.*.*)[A-Z]", 3}};
     },
     {"alpha_pattern", "limit"}},
    {"PatternsDisagree",
     [](auto& c, auto&) {
       c["alpha_pattern"] = {{"q_proj", 3}, {".*_proj", 4}};
     },
     {"alpha_pattern", "q_proj", "one value"}},
    {"AnUnknownGate",
     [](auto& c, auto&) {
       c["attention_gate"] = {{"source", "query"}};
     },
     {"attention_gate", "source", "query"}},
    {"AGateWithoutTensors",
     [](auto& c, auto&) {
       c["attention_gate"] = {
           {"source", "value"}, {"placement", "output"}, {"granularity", "head"}, {"bias", false}};
     },
     {"self_attn.gate_proj.weight", "missing", "(4, 32)"}},
    {"NoWeights",
     [](auto&, auto& folder) { fs::remove(folder / "adapter_model.safetensors"); },
     {"adapter_model.safetensors"}},
    {"AnUnknownModule",
     [](auto&, auto& folder) { respell(folder, "0.self_attn.q_proj", "0.self_attn.x_proj"); },
     {"x_proj.lora_A", "base.gguf"}},
    {"ALayerTooMuch",
     [](auto&, auto& folder) {
       respell(folder, "layers.1.self_attn.q_proj.lora_A", "layers.7.self_attn.q_proj.lora_A");
     },
     {"layers.7.self_attn.q_proj.lora_A", "base.gguf"}},
    {"AnotherPart",
     [](auto&, auto& folder) {
       respell(folder, "0.self_attn.q_proj.lora_B", "0.self_attn.o_proj.lora_C");
     },
     {"lora_C"}},
    {"OfAnEmbedding",
     [](auto&, auto& folder) { respell(folder, "lm_head.lora_A.weight", "lm_head.lora_embeding"); },
     {"lora_embeding"}},
    {"AWholeMatrix",
     [](auto&, auto& folder) {
       respell(folder, "base_model.model.lm_head.base_layer.weight",
               "module.module.module.module.lm_head.weight");
     },
     {"lm_head.weight", "whole matrix", "modules_to_save"}},
};

class BadFolders : public testing::TestWithParam<BadFolder> {};

TEST_P(BadFolders, AreRefusedInOneLine) {
  const TemporaryDirectory directory;
  const fs::path base = directory.path() / "base.gguf";
  ASSERT_EQ(
      run("vga-convert " + quoted(test_data / "families/llama") + " -o " + quoted(base)).status, 0);
  const fs::path folder = directory.path() / "peft";
  fs::copy(test_data / "adapters/llama", folder);
  auto config = nlohmann::json::parse(read_text(folder / "adapter_config.json"));
  GetParam().change(config, folder);
  std::ofstream(folder / "adapter_config.json") << config.dump();
  const fs::path out = directory.path() / "out.gguf";
  const Outcome outcome =
      run("vga-convert " + quoted(folder) + " --base " + quoted(base) + " -o " + quoted(out));
  EXPECT_EQ(outcome.status, 1) << outcome.output;
  EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 1) << outcome.errors;
  for (const char* part : GetParam().says) {
    EXPECT_NE(outcome.errors.find(part), std::string::npos) << outcome.errors << "lacks " << part;
  }
  EXPECT_FALSE(fs::exists(out));
}

INSTANTIATE_TEST_SUITE_P(Rows, BadFolders, testing::ValuesIn(bad_folders),
                         [](const auto& row) { return row.param.name; });

}  // namespace
}  // namespace vga::test
