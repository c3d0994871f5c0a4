/// What config.json and the names of tensors mean, and what of them is refused.

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint_image.h"
#include "config_json.h"
#include "model/weights.h"
#include "name_rules.h"
#include "names.h"

namespace vga::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

ConfigJson parse_config(const json& config) {
  const std::string dump = config.dump();
  return parse_config_json(bytes_of(dump), "config.json");
}

/// Llama 3.2's own, with one key changed.
json llama3_scaling(const char* key, const json& value) {
  json scaling = {{"rope_type", "llama3"},
                  {"factor", 32.0},
                  {"low_freq_factor", 1.0},
                  {"high_freq_factor", 4.0},
                  {"original_max_position_embeddings", 8192}};
  scaling[key] = value;
  return scaling;
}

TEST(ConvertConfig, Llama3ScalingLeavesFastFrequenciesAndDividesSlowOnes) {
  json fields = good_config(true);
  fields["head_dim"] = 64;
  // Where theta stands does not matter.
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    json config = fields;
    config[key] = llama3_scaling("factor", 32);
    (config.contains("rope_parameters") ? config[key] : config)["rope_theta"] = 500000.0;
    const std::string dump = config.dump();
    const ConfigJson parsed = parse_config_json(bytes_of(dump), "config.json");
    ASSERT_EQ(parsed.config.rope_factors, RopeFactors::fixed);
    EXPECT_EQ(parsed.config.rope_tables[0].theta, 500000);
    ASSERT_EQ(parsed.rope_factors.size(), 32u);
    // Within 8192 positions pair 14 turns 4.19 times, 15 2.78, 16 1.84, 17 1.22, 18 0.81 times.
    for (size_t i = 0; i < 15; ++i) EXPECT_EQ(parsed.rope_factors[i], 1) << i;
    EXPECT_NEAR(parsed.rope_factors[15], 1.65133, 1e-5);
    EXPECT_NEAR(parsed.rope_factors[16], 3.29226, 1e-5);
    EXPECT_NEAR(parsed.rope_factors[17], 9.66673, 1e-5);
    for (size_t i = 18; i < 32; ++i) EXPECT_EQ(parsed.rope_factors[i], 32) << i;
  }
}

TEST(ConvertConfig, RopeMayBeDescribedTwiceIfTheSame) {
  const json plain = {{"rope_type", "default"}, {"factor", 1.0}};
  const json linear = {{"type", "linear"}, {"factor", 4.0}};
  const json newer = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5e5}};
  const json llama3 = llama3_scaling("factor", 32);
  json config = good_config(true);
  config["head_dim"] = 64;
  const auto with = [&](const json& scaling, const json& parameters, const json& theta) {
    config["rope_scaling"] = scaling;
    config["rope_parameters"] = parameters;
    config["rope_theta"] = theta;
    return config;
  };
  EXPECT_EQ(parse_config(with(plain, nullptr, nullptr)).config.rope_tables[0].factor, 1);
  EXPECT_EQ(parse_config(with(plain, {{"rope_theta", 5e5}, {"rope_type", "default"}}, nullptr))
                .config.rope_tables[0]
                .theta,
            5e5);
  EXPECT_EQ(parse_config(with(linear, newer, 5e5)).config.rope_tables[0].factor, 4);
  EXPECT_EQ(parse_config(with(llama3, llama3, nullptr)).rope_factors.size(), 32u);
  for (const json& bad :
       {with(linear, plain, nullptr), with(plain, llama3, nullptr), with(linear, llama3, nullptr),
        with(llama3_scaling("factor", 8), llama3, nullptr)}) {
    const auto message = message_of([&] { parse_config(bad); });
    EXPECT_NE(message.find("'rope_parameters': contradicts"), std::string::npos) << message;
  }
  const auto message = message_of([&] { parse_config(with(linear, newer, 1e4)); });
  EXPECT_NE(message.find("rope_theta"), std::string::npos) << message;
}

TEST(ConvertConfig, NanIsReadWhereNobodyAsks) {
  const auto with = [](const std::string& more) {
    std::string dump = good_config(true).dump();
    return dump.insert(1, more);
  };
  const std::string good = with(R"("a":NaN,"NaN \\\"":[Infinity,-Infinity,"-Infinity"],)");
  EXPECT_EQ(parse_config_json(bytes_of(good), "config.json").config.hidden_size, 8u);
  const std::string bad = with(R"("rope_theta":NaN,)");
  const auto message = message_of([&] { parse_config_json(bytes_of(bad), "config.json"); });
  EXPECT_NE(message.find("'rope_theta': wanted a positive number, found \"NaN\""),
            std::string::npos)
      << message;
}

TEST(ConvertConfig, MistralIsALlama) {
  json config = good_config(true);
  config["model_type"] = "mistral";
  for (const json& window : {json(nullptr), json(0)}) {
    config["sliding_window"] = window;
    EXPECT_EQ(parse_config(config).config.family, "llama");
    EXPECT_EQ(parse_config(config).config.layers[0].window, 0u);
  }
  config["sliding_window"] = 7;
  EXPECT_EQ(parse_config(config).config.layers[0].window, 7u);
}

TEST(ConvertConfig, AnyFamilyMayHaveAGate) {
  json config = good_config(true);
  config["attention_gate"] = good_config(false)["attention_gate"];
  EXPECT_EQ(parse_config(config).config.gate, parse_config(good_config(false)).config.gate);
}

/// The config.json of one of the tests' checkpoints.
json family_config(const std::string& name) {
  return json::parse(
      read_text(fs::path(VGA_SOURCE_DIR) / "tests/data/families" / name / "config.json"));
}

TEST(ConvertConfig, RefusesWhatAFamilyCannotRepresent) {
  struct Row {
    const char* family;
    const char* key;
    json value;
  };
  const std::vector<Row> rows = {
      {"qwen2", "use_sliding_window", "yes"},
      {"smollm3", "no_rope_layers", {1, 1, 0, 1, 1}},
      {"smollm3", "no_rope_layers", {1, 1, 1, 0}},
      {"gemma2", "query_pre_attn_scalar", 32},
      {"gemma2", "layer_types", {"full_attention", "sliding_attention", "full_attention"}},
      {"gemma3", "layer_types", {"full_attention"}},
      {"gemma3", "layer_types", json::array({1, 1, 1, 1, 1, 1, 1})},
      {"gemma3", "attn_logit_softcapping", 50.0},
      {"gemma3", "use_bidirectional_attention", true},
      {"gemma3", "hidden_activation", "silu"},
      {"gemma3_nested", "text_config", 1},
      {"gemma3_nested", "quantization_config", json::object()},
      {"olmo2", "sliding_window", 8},
      {"qwen3", "partial_rotary_factor", 0.5},
      {"gpt2", "activation_function", "relu"},
      {"gpt2", "scale_attn_by_inverse_layer_idx", true},
      {"gpt2", "scale_attn_weights", false},
      {"gpt_neox", "attention_bias", false},
      {"gpt_neox", "hidden_act", "gelu_new"},
      {"opt", "do_layer_norm_before", false},
      {"opt", "word_embed_proj_dim", 24},
      {"opt", "enable_bias", false},
      {"phi3_long",
       "rope_parameters",
       {{"rope_type", "longrope"}, {"short_factor", {1, 1}}, {"long_factor", {1, 1}}}},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(std::string(row.family) + " " + row.key + " = " + row.value.dump());
    json config = family_config(row.family);
    parse_config(config);
    if (std::string_view(row.family) == "qwen2") config["sliding_window"] = 8;
    config[row.key] = row.value;
    const auto message = message_of([&] { parse_config(config); });
    EXPECT_NE(message.find(row.key), std::string::npos) << message;
  }
  json qwen = family_config("qwen2");
  qwen["sliding_window"] = 8;
  qwen["use_sliding_window"] = false;
  qwen.erase("layer_types");
  EXPECT_EQ(parse_config(qwen).config.layers[0].window, 0u);
  qwen["use_sliding_window"] = true;
  message_of([&] { parse_config(qwen); });
}

TEST(ConvertConfig, RefusesWhatItCannotRepresent) {
  struct Row {
    const char* path;
    json value;
    const char* says;
  };
  const std::vector<Row> rows = {{"/model_type", "bert", "one of vga, llama"},
                                 {"/model_type", nullptr, "'model_type' is missing"},
                                 {"/hidden_size", -8, "hidden_size"},
                                 {"/hidden_size", 8.5, "hidden_size"},
                                 {"/hidden_size", 1e300, "hidden_size"},
                                 {"/hidden_size", "8", "hidden_size"},
                                 {"/hidden_size", 0, "hidden_size"},
                                 {"/num_hidden_layers", 1000000, "num_hidden_layers"},
                                 {"/num_key_value_heads", 3, "num_key_value_heads"},
                                 {"/head_dim", 3, "rotated"},
                                 {"/vocab_size", nullptr, "'vocab_size' is missing"},
                                 {"/rms_norm_eps", -1, "rms_norm_eps"},
                                 {"/rope_theta", 0, "rope_theta"},
                                 {"/rope_scaling", {{"type", "dynamic"}}, "grows"},
                                 {"/rope_scaling", {{"rope_type", "longrope"}}, "short_factor"},
                                 {"/rope_scaling", {{"rope_type", "mine"}}, "unknown"},
                                 {"/rope_scaling", {{"factor", 2}}, "rope_type"},
                                 {"/rope_scaling", {{"rope_type", "llama3"}}, "factor"},
                                 {"/rope_scaling", llama3_scaling("factor", 0.5), "factor"},
                                 {"/rope_scaling", llama3_scaling("factor", nullptr), "factor"},
                                 {"/rope_scaling", llama3_scaling("high_freq_factor", 1), "more"},
                                 {"/rope_scaling", llama3_scaling("beta", 1), "'beta'"},
                                 {"/rope_parameters", {{"full_attention", 1}}, "full"},
                                 {"/rope_scaling", {{"type", "default"}, {"factor", 2}}, "factor"},
                                 {"/rope_parameters", {{"partial_rotary_factor", 0.5}}, "rotary"},
                                 {"/hidden_act", "gelu", "hidden_act"},
                                 {"/sliding_window", 64, "sliding_window"},
                                 {"/tie_word_embeddings", 1, "tie_word_embeddings"},
                                 {"/attention_gate", nullptr, "'attention_gate' is missing"},
                                 {"/attention_gate/source", "query", "none or input or value"},
                                 {"/attention_gate/placement", "key", "output or value"},
                                 {"/attention_gate/granularity", "layer", "head or element"},
                                 {"/attention_gate/bias", nullptr, "'bias' is missing"},
                                 {"/attention_gate/scale", 2, "scale"}};
  for (const Row& row : rows) {
    SCOPED_TRACE(std::string(row.path) + " = " + row.value.dump());
    json config = good_config(false);
    config[json::json_pointer(row.path)] = row.value;
    const std::string dump = config.dump();
    const auto message = message_of([&] { parse_config_json(bytes_of(dump), "config.json"); });
    EXPECT_NE(message.find(row.says), std::string::npos) << message;
  }
}

TEST(ConvertNames, WhatIsRenamed) {
  const std::vector<Rename> renames = {Rename(R"(^h\.(\d+)\.=layers.$1.)"), Rename("^=model.")};
  EXPECT_EQ(renamed("h.3.x", renames), "model.layers.3.x");
  message_of([] { Rename("no equals sign"); });
  message_of([] { Rename("(=x"); });
  message_of([] { Skip("("); });
  message_of([&] { renamed(std::string(100'000, 'a'), renames); });
  message_of([&] { Skip("b").matches(std::string(100'000, 'a')); });
}

TEST(ConvertNames, WrappersAndPrefixesAreNoPartOfAName) {
  EXPECT_EQ(unwrapped_name("_orig_mod.module.h.3.x"), "h.3.x");
  EXPECT_EQ(unwrapped_name("model.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.mlp.w"),
            "model.layers.0.mlp.w");
  EXPECT_EQ(unwrapped_name("a.q_proj.base_layer.weight"), "a.q_proj.weight");
  EXPECT_EQ(unwrapped_name("my_module.x"), "my_module.x");
  EXPECT_EQ(unwrapped_name("x.module"), "x.module");
}

std::optional<std::string> found(const NameMap& map, const char* name) {
  const auto targets = map.find(name);
  return targets.empty() ? std::nullopt : std::optional(targets[0].name);
}

TEST(ConvertNames, TheBodyMayBeAPartOfSomethingElse) {
  const NameTable& llama = name_table("llama");
  const std::string embedding = "embed_tokens.weight";
  const NameMap usual(llama, {"model." + embedding, "a.b"});
  EXPECT_EQ(found(usual, "model.layers.12.mlp.up_proj.weight"), "blk.12.ffn_up.weight");
  EXPECT_EQ(found(usual, "model.layers.0.self_attn.q_proj.bias"), "blk.0.attn_q.bias");
  EXPECT_EQ(found(usual, "lm_head.weight"), "output.weight");
  for (const char* unknown :
       {"model.layers.01.mlp.up_proj.weight", "model.layers..mlp.up_proj.weight",
        "layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.scale", "x.lm_head.weight",
        "model.layers.0.mlp.c_fc.weight", "model.", ""}) {
    EXPECT_FALSE(found(usual, unknown)) << unknown;
  }
  const NameMap wrapped(llama, {"base_model.model.model." + embedding, "x"});
  EXPECT_EQ(found(wrapped, "base_model.model.model.norm.weight"), "output_norm.weight");
  EXPECT_EQ(found(wrapped, "base_model.model.lm_head.weight"), "output.weight");
  EXPECT_FALSE(found(wrapped, "model.norm.weight"));
  EXPECT_EQ(wrapped.source_of("output_norm.weight"), "base_model.model.model.norm.weight");
  const NameMap bare(llama, {embedding});
  EXPECT_EQ(found(bare, "norm.weight"), "output_norm.weight");
  const NameMap two(llama, {"a." + embedding, "b." + embedding});
  EXPECT_FALSE(found(two, "a.norm.weight"));
  EXPECT_EQ(found(NameMap(llama, {"my" + embedding}), "model.norm.weight"), "output_norm.weight");
}

TEST(ConvertNames, EveryWeightOfEveryFamilyHasOne) {
  for (const auto& folder :
       fs::directory_iterator(fs::path(VGA_SOURCE_DIR) / "tests/data/families")) {
    const ConfigJson parsed = parse_config(family_config(folder.path().filename().string()));
    const NameMap map(name_table(parsed.model_type), {});
    for (const WeightSpec& spec : weight_specs(parsed.config)) {
      if (spec.role == Role::rope_factors) continue;  // from config.json
      const std::vector<Target> targets = map.find(map.source_of(spec.name));
      EXPECT_NE(std::ranges::find(targets, spec.name, &Target::name), targets.end())
          << folder.path() << " " << spec.name;
    }
  }
}

}  // namespace
}  // namespace vga::test
