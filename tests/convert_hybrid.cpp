/// Checkpoints of models with delta nets and experts: what is refused, and what may be spelled in
/// several ways. That their functions are right is test_family_checkpoints.cpp's.

#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint.h"
#include "checkpoint_image.h"
#include "config_json.h"
#include "conversion.h"
#include "peft.h"

namespace vga::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path family(const std::string& name) {
  return fs::path(VGA_SOURCE_DIR) / "tests/data/families" / name;
}

struct BadConfig {
  const char* family;
  const char* key;
  json value;
};

TEST(ConvertHybrid, RefusesConfigsThatItCannotRepresent) {
  const std::vector<BadConfig> rows = {
      {"qwen35", "attention_bias", true},
      {"qwen35", "attn_output_gate", false},
      {"qwen35", "use_sliding_window", true},
      {"qwen35", "attention_gate", {{"source", "none"}}},
      {"afmoe", "attention_gate", {{"source", "none"}}},
      {"qwen35", "linear_value_head_dim", 32},
      {"qwen35", "linear_num_value_heads", 5},
      {"qwen35", "linear_num_key_heads", 0},
      {"qwen35", "linear_conv_kernel_dim", 9},
      {"qwen35", "hidden_act", "gelu"},
      {"qwen35", "layer_types", {"linear_attention"}},
      {"qwen35", "layer_types", json::array({"sliding_attention", 0, 0, 0, 0})},
      {"qwen35", "quantization_config", json::object()},
      {"qwen35_nested", "quantization_config", json::object()},
      {"qwen3next", "norm_topk_prob", false},
      {"qwen3next", "decoder_sparse_step", 2},
      {"qwen3next", "mlp_only_layers", {0}},
      {"qwen3next", "shared_expert_intermediate_size", nullptr},
      {"qwen35moe", "moe_intermediate_size", nullptr},
      {"qwen35moe", "num_experts_per_tok", 9},
      {"qwen3moe", "sliding_window", 8},
      {"qwen3moe", "num_local_experts", 0},
      {"afmoe", "mup_enabled", false},
      {"afmoe", "mup_enabled", nullptr},
      {"afmoe", "attention_bias", true},
      {"afmoe", "route_norm", false},
      {"afmoe", "score_func", "softmax"},
      {"afmoe", "n_group", 2},
      {"afmoe", "num_dense_layers", 5},
      {"afmoe", "intermediate_size", nullptr},
  };
  for (const BadConfig& row : rows) {
    SCOPED_TRACE(std::string(row.family) + " " + row.key + " = " + row.value.dump());
    json config = json::parse(read_text(family(row.family) / "config.json"));
    if (std::string_view(row.key) == "sliding_window") config["use_sliding_window"] = true;
    config[row.key] = row.value;
    const std::string text = config.dump();
    const auto message = message_of([&] { parse_config_json(bytes_of(text), "config.json"); });
    // The runtime's own checks speak of the key that a GGUF file would have.
    const std::string_view key = row.key;
    const std::string_view said = key == "linear_num_value_heads"   ? "ssm.time_step_rank"
                                  : key == "linear_conv_kernel_dim" ? "ssm.conv_kernel"
                                                                    : key;
    EXPECT_NE(message.find(said), std::string::npos) << message;
  }
}

TEST(ConvertHybrid, LayersFollowAnIntervalWhereNoListSaysMore) {
  json config = json::parse(read_text(family("qwen35") / "config.json"));
  config.erase("layer_types");
  config["full_attention_interval"] = 2;
  const std::string text = config.dump();
  const Config parsed = parse_config_json(bytes_of(text), "config.json").config;
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(parsed.layers[i].mixer, i % 2 == 1 ? Mixer::attention : Mixer::delta);
    EXPECT_EQ(parsed.layers[i].rope.has_value(), i % 2 == 1);
  }
}

struct BadTensors {
  const char* family;
  void (*change)(SourceTensors& tensors);
  const char* says;
};

/// Gives a tensor another name.
void rename(SourceTensors& tensors, const std::string& from, const std::string& to) {
  auto node = tensors.extract(from);
  ASSERT_FALSE(node.empty()) << from;
  node.key() = to;
  tensors.insert(std::move(node));
}

constexpr const char* layer = "model.layers.0.";

const BadTensors bad_tensors[] = {
    {"qwen35moe", [](auto& t) { t.erase(layer + std::string("mlp.experts.3.up_proj.weight")); },
     "'model.layers.0.mlp.experts.3.up_proj.weight' is missing, wanted (16, 32)"},
    {"qwen35moe",
     [](auto& t) {
       rename(t, "model.layers.0.mlp.experts.7.up_proj.weight",
              "model.layers.0.mlp.experts.8.up_proj.weight");
     },
     "experts.7.up_proj.weight' is missing"},
    {"qwen35moe",
     [](auto& t) {
       t["model.layers.0.mlp.experts.8.up_proj.weight"] =
           t["model.layers.0.mlp.experts.7.up_proj.weight"];
     },
     "experts.8.up_proj.weight' is of an expert too many, wanted 8"},
    {"qwen35moe",
     [](auto& t) {
       t["model.layers.0.mlp.experts.2.up_proj.weight"].shape = {15, 32};
     },
     "experts.2.up_proj.weight': wanted shape (16, 32), found (15, 32)"},
    {"qwen35moe",
     [](auto& t) {
       t["model.layers.0.mlp.experts.gate_up_proj"] =
           t["model.layers.0.mlp.experts.2.up_proj.weight"];
     },
     "means the same as tensor"},
    {"qwen35moe", [](auto& t) { t["model.layers.0.mlp.experts.2.up_proj.weight"].type.reset(); },
     "experts.2.up_proj.weight': wanted f32, f16 or bf16"},
    {"qwen3moe_fused", [](auto& t) { t["model.layers.0.mlp.experts.gate_up_proj"].shape[0] = 7; },
     "gate_up_proj': wanted shape (8, 16, 32), found (7, 16, 32)"},
    {"qwen3moe_fused", [](auto& t) { t["model.layers.0.mlp.experts.gate_up_proj"].shape[1] = 31; },
     "gate_up_proj': wanted shape (8, 16, 32), found (8, 31, 32)"},
    {"qwen3moe_fused",
     [](auto& t) {
       t["model.layers.0.mlp.experts.down_proj"].shape = {256, 16};
     },
     "down_proj': wanted shape (8, 32, 16), found (256, 16)"},
    {"qwen3moe_fused",
     [](auto& t) { t["model.layers.0.mlp.gate_proj.weight"] = t["model.norm.weight"]; },
     "mlp.gate_proj.weight': is no part of this model"},
    {"qwen35", [](auto& t) { t["model.layers.0.linear_attn.A_log"].shape = {5}; },
     "A_log': wanted shape (6), found (5)"},
    {"qwen35", [](auto& t) { t["model.layers.0.linear_attn.conv1d.weight"].shape[1] = 2; },
     "conv1d.weight': wanted shape (160, 4), found (160, 2, 4)"},
    {"qwen35",
     [](auto& t) { t["model.layers.0.linear_attn.conv1d.bias"] = t["model.norm.weight"]; },
     "conv1d.bias' (32) belongs to no part"},
    {"qwen35", [](auto& t) { t.erase("model.layers.0.linear_attn.dt_bias"); },
     "'model.layers.0.linear_attn.dt_bias' is missing"},
    {"qwen35",
     [](auto& t) {
       rename(t, "model.layers.0.linear_attn.A_log", "model.layers.0.linear_attn.A_log.weight");
     },
     "A_log.weight': is no part of this model"},
    {"qwen35",
     [](auto& t) { t["model.layers.0.self_attn.q_proj.weight"] = t["model.norm.weight"]; },
     "q_proj.weight' (32) belongs to no part"},
    {"qwen3next",
     [](auto& t) { t["model.layers.0.linear_attn.in_proj_qkvz.weight"].shape[0] = 255; },
     "in_proj_qkvz.weight': wanted shape (160, 32), found (255, 32)"},
    {"qwen3next", [](auto& t) { t.erase("model.layers.0.linear_attn.in_proj_qkvz.weight"); },
     "in_proj_qkvz.weight' is missing"},
    {"afmoe", [](auto& t) { t.erase("model.layers.1.mlp.expert_bias"); },
     "'model.layers.1.mlp.expert_bias' is missing, wanted (8)"},
    {"afmoe",
     [](auto& t) {
       rename(t, "model.layers.0.mlp.gate_proj.weight",
              "model.layers.0.mlp.experts.0.gate_proj.weight");
     },
     "'model.layers.0.mlp.gate_proj.weight' is missing"},
};

TEST(ConvertHybrid, RefusesTensorsThatAreNoPartOfTheModel) {
  for (const BadTensors& row : bad_tensors) {
    SCOPED_TRACE(std::string(row.family) + ": " + row.says);
    Checkpoint checkpoint = open_checkpoint(family(row.family), {});
    row.change(checkpoint.tensors);
    const auto message =
        message_of([&] { plan_conversion(checkpoint, quantization_from_name("f32"), {}); });
    EXPECT_NE(message.find(row.says), std::string::npos) << message;
  }
}

TEST(ConvertHybrid, DraftsAndEyesAreLeftOutByName) {
  const Checkpoint checkpoint = open_checkpoint(family("qwen35_nested"), {});
  const Conversion conversion = plan_conversion(checkpoint, quantization_from_name("f32"), {});
  std::vector<std::string> skipped;
  for (const SkippedTensor& tensor : conversion.skipped) skipped.push_back(tensor.name);
  const std::vector<std::string> expected = {"model.visual.patch_embed.proj.weight",
                                             "mtp.fc.weight",
                                             "mtp.layers.0.self_attn.q_norm.weight"};
  EXPECT_EQ(skipped, expected);
}

/// A value of an expert that cannot be written is named with the expert's row.
TEST(ConvertHybrid, NumbersThatAreNoneAreNamed) {
  Checkpoint checkpoint = open_checkpoint(family("afmoe"), {});
  const float nan = NAN;
  SourceTensor& up = checkpoint.tensors["model.layers.1.mlp.experts.5.up_proj.weight"];
  up.type = DType::f32;
  up.strides = {0, 0};
  up.data = reinterpret_cast<const std::byte*>(&nan);
  const Conversion conversion = plan_conversion(checkpoint, quantization_from_name("f16"), {});
  const TemporaryDirectory directory;
  const auto message =
      message_of([&] { write_conversion(conversion, directory.path() / "out.gguf"); });
  EXPECT_NE(message.find("mlp.experts.#.up_proj.weight': row 80"), std::string::npos) << message;
}

TEST(ConvertHybrid, AdaptersChangeOneMatrixEach) {
  struct Row {
    const char* base;
    const char* from;
    const char* to;
    const char* says;
  };
  const std::vector<Row> rows = {
      {"qwen35", "3.self_attn.k_proj", "3.self_attn.q_proj", "'blk.3.attn_q.weight'"},
      {"qwen35moe", "0.mlp.up_proj", "0.mlp.experts.3.up_proj", "'blk.0.ffn_up_exps.weight'"},
      {"qwen3next", "0.linear_attn.in_proj_b", "0.linear_attn.in_proj_ba", "'blk.0.ssm_ba.weight'"},
      {"qwen3next", "0.linear_attn.in_proj_qkv", "0.linear_attn.in_proj_qkvz", "several tensors"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(std::string(row.base) + " " + row.to);
    const TemporaryDirectory directory;
    const fs::path base = directory.path() / "base.gguf";
    const Checkpoint checkpoint = open_checkpoint(family(row.base), {});
    write_conversion(plan_conversion(checkpoint, quantization_from_name("f32"), {}), base);
    PeftAdapter adapter = open_peft(fs::path(VGA_SOURCE_DIR) / "tests/data/adapters/qwen35");
    SourceTensors changed;
    for (const auto& [name, tensor] : adapter.tensors) {
      const size_t at = name.find(std::string(row.from) + ".");
      if (at == name.npos) continue;
      changed[std::string(name).replace(at, std::string(row.from).size(), row.to)] = tensor;
    }
    ASSERT_EQ(changed.size(), 2u);
    adapter.gate = AttentionGate{.source = AttentionGate::Source::value};
    const auto with_gate = message_of([&] { plan_adapter(adapter, Gguf::open(base), DType::f32); });
    EXPECT_NE(with_gate.find("has that of its family"), std::string::npos) << with_gate;
    adapter.gate.reset();
    adapter.tensors = changed;
    const auto message = message_of([&] { plan_adapter(adapter, Gguf::open(base), DType::f32); });
    EXPECT_NE(message.find(row.says), std::string::npos) << message;
    EXPECT_NE(message.find(row.to), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace vga::test
