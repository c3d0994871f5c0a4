/// Bad GGUF files, one row each: what is wrong, and what the one-line message must name. Every row
/// goes through the library and through a program, which must end with status 1 and that line.

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "gguf_image.h"
#include "logits.h"
#include "run_program.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

constexpr uint64_t huge = ~uint64_t{0};

struct BadModel {
  const char* name;  // of the test
  std::string (*make)();
  std::vector<const char*> says;  // all of these stand in the message
};

std::ostream& operator<<(std::ostream& out, const BadModel& bad) {
  return out << bad.name;
}

/// The good file with one thing changed.
template <class Change>
std::string changed(Change&& change) {
  GgufImage image = tiny_model();
  change(image);
  return image.bytes();
}

/// Header and one key alone, cut short or with a claim that the file cannot hold.
std::string lone_key(GgufType type, const std::string& payload) {
  GgufImage image;
  image.set("some.key", type, payload);
  return image.bytes();
}
std::string lone_array(GgufType element, uint64_t count, const std::string& payload) {
  return lone_key(GgufType::array, raw(static_cast<uint32_t>(element)) + raw(count) + payload);
}
std::string raw_key(const std::string& key) {
  GgufImage image = tiny_model();
  image.values.insert(image.values.begin(), {key, GgufType::u8, raw<uint8_t>(1)});
  return image.bytes();
}
std::string alignment(GgufType type, const std::string& payload) {
  return changed([&](GgufImage& g) { g.set("general.alignment", type, payload); });
}
std::string alignment(uint32_t value) {
  return alignment(GgufType::u32, raw(value));
}

std::string lone_tensor(std::vector<uint64_t> dims, uint32_t type = 0, std::string name = "t") {
  GgufImage image;
  image.tensors.push_back({std::move(name), std::move(dims), type, std::string(64, '\0'), {}});
  return image.bytes();
}

std::string with_vga(const char* key, uint32_t value) {
  return changed([&](GgufImage& g) { g.set(std::string("vga.") + key, value); });
}
std::string with_vga(const char* key, float value) {
  return changed([&](GgufImage& g) { g.set(std::string("vga.") + key, value); });
}

std::string rope_factors(const std::vector<float>& factors) {
  return changed([&](GgufImage& g) { g.set_rope_factors(factors); });
}

std::vector<std::string> byte_vocab(const char* odd) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", odd};
  while (tokens.size() < 32)
    tokens.push_back(std::string(1, static_cast<char>('A' + tokens.size())));
  return tokens;
}

/// The good file, its fourth token declared a byte token with this text.
std::string byte_token(const char* text) {
  return changed([&](GgufImage& g) {
    g.set_strings("tokenizer.ggml.tokens", byte_vocab(text));
    std::string types;
    for (int i = 0; i < 32; ++i) types += raw<int32_t>(i == 0 ? 2 : i < 3 ? 3 : i == 3 ? 6 : 1);
    g.set_array("tokenizer.ggml.token_type", GgufType::i32, 32, types);
  });
}

const std::vector<BadModel> bad_models = {
    // Header.
    {"Empty", [] { return std::string(); }, {"too small"}},
    {"ShorterThanHeader", [] { return std::string("GGUF\3\0\0\0", 8); }, {"too small"}},
    {"WrongMagic",
     [] { return changed([](auto& g) { g.magic = "FUGG"; }); },
     {"not a GGUF file", "FUGG"}},
    {"LfsPointer",
     [] { return std::string("version https://git-lfs.github.com/spec/v1\nsize 5\n"); },
     {"Git LFS pointer", "git lfs pull"}},
    {"OldGgml", [] { return changed([](auto& g) { g.magic = "lmgg"; }); }, {"old 'ggml'"}},
    {"OldGgjt", [] { return changed([](auto& g) { g.magic = "tjgg"; }); }, {"old 'ggjt'"}},
    {"Version0", [] { return changed([](auto& g) { g.version = 0; }); }, {"version 0", "convert"}},
    {"Version1", [] { return changed([](auto& g) { g.version = 1; }); }, {"version 1", "convert"}},
    {"Version4",
     [] { return changed([](auto& g) { g.version = 4; }); },
     {"version 4", "newer than supported"}},
    {"BigEndian", [] { return changed([](auto& g) { g.version = 3u << 24; }); }, {"big-endian"}},
    {"TensorCountMax", [] { return changed([](auto& g) { g.n_tensors = huge; }); }, {"tensors"}},
    {"ValueCountMax", [] { return changed([](auto& g) { g.n_values = huge; }); }, {"metadata"}},
    {"BillionValues",
     [] { return changed([](auto& g) { g.n_values = 1'000'000'000; }); },
     {"1000000000", "metadata"}},
    // Keys and values.
    {"KeyLength2To63",
     [] {
       GgufImage image;
       image.alignment = 1;  // no padding: what follows is where the first key belongs
       image.n_values = 1;
       return image.bytes() + raw(uint64_t{1} << 63) + std::string(64, 'k');
     },
     {"metadata key 0", "9223372036854775808"}},
    {"EmptyKey", [] { return raw_key(""); }, {"metadata key 0"}},
    {"LongKey", [] { return raw_key(std::string(70000, 'k')); }, {"metadata key 0"}},
    {"KeyWithNul", [] { return raw_key(std::string("a\0b", 3)); }, {"metadata key 0", "\\x00"}},
    {"KeyNotAscii", [] { return raw_key("caf\xC3\xA9"); }, {"metadata key 0"}},
    {"KeyWithEscape", [] { return raw_key("a\x1b[2J"); }, {"metadata key 0", "\\x1B"}},
    {"DuplicateKey",
     [] { return changed([](auto& g) { g.values.push_back(g.values[0]); }); },
     {"general.architecture", "twice"}},
    {"UnknownValueType",
     [] { return lone_key(static_cast<GgufType>(13), raw<uint64_t>(0)); },
     {"some.key", "type 13"}},
    {"StringLengthMax", [] { return lone_key(GgufType::string, raw(huge)); }, {"some.key"}},
    {"StringOneGiB",
     [] { return lone_key(GgufType::string, raw(uint64_t{1} << 30)); },
     {"some.key", "1073741824"}},
    {"ArrayOf2To40",
     [] { return lone_array(GgufType::u8, uint64_t{1} << 40, "xx"); },
     {"some.key", "1099511627776"}},
    {"ArrayCountWraps",
     [] { return lone_array(GgufType::u64, (uint64_t{1} << 61) + 1, "12345678"); },
     {"some.key"}},
    {"ArrayOfArrays",
     [] {
       std::string nested;
       for (int i = 0; i < 100'000; ++i) nested += raw<uint32_t>(9) + raw<uint64_t>(1);
       return lone_key(GgufType::array, nested);
     },
     {"some.key", "arrays of arrays"}},
    {"StringArrayTooLong",
     [] { return lone_array(GgufType::string, 3, raw_string("one") + raw<uint64_t>(9999)); },
     {"some.key"}},
    {"BoolIs2",
     [] { return lone_key(GgufType::boolean, raw<uint8_t>(2)); },
     {"some.key", "bool", "2"}},
    {"TokensNotUtf8",
     [] {
       return changed(
           [](auto& g) { g.set_strings("tokenizer.ggml.tokens", byte_vocab("\xFF\xFE")); });
     },
     {"tokenizer.ggml.tokens"}},
    {"Alignment0", [] { return alignment(0); }, {"general.alignment", "found 0"}},
    {"Alignment13", [] { return alignment(13); }, {"general.alignment", "found 13"}},
    {"Alignment2To30", [] { return alignment(1u << 30); }, {"general.alignment", "1073741824"}},
    {"AlignmentI32",
     [] { return alignment(GgufType::i32, raw<int32_t>(32)); },
     {"general.alignment", "u32", "i32"}},
    {"Alignment1", [] { return alignment(1); }, {"general.alignment", "found 1"}},
    // Tensors.
    {"NoDims", [] { return lone_tensor({}); }, {"'t'", "found 0"}},
    {"FiveDims",
     [] {
       return lone_tensor({1, 1, 1, 1, 1});
     },
     {"'t'", "found 5"}},
    {"MaxDims",
     [] {
       GgufImage image;
       image.alignment = 1;
       image.n_tensors = 1;
       return image.bytes() + raw_string("t") + raw(~uint32_t{0}) + std::string(64, '\1');
     },
     {"'t'", "4294967295"}},
    {"DimMinus1", [] { return lone_tensor({huge}); }, {"'t'"}},
    {"DimsOverflow",
     [] {
       return lone_tensor({INT64_MAX, 2});
     },
     {"'t'", "overflow"}},
    {"DimsWrapToSmall",
     [] {
       return lone_tensor({uint64_t{1} << 33, uint64_t{1} << 31, 1});
     },
     {"'t'", "overflow"}},
    {"BytesWrap", [] { return lone_tensor({uint64_t{1} << 62}); }, {"'t'", "overflow"}},
    {"BytesPlusPaddingWrap", [] { return lone_tensor({(huge - 8) / 4}); }, {"'t'"}},
    {"RequiredTensorEmpty",
     [] {
       return changed([](auto& g) {
         g.find_tensor("output_norm.weight")->dims = {0};
         g.find_tensor("output_norm.weight")->data.clear();
       });
     },
     {"output_norm.weight", "(24)", "(0)"}},
    {"RemovedType4", [] { return lone_tensor({32}, 4); }, {"'t'", "type 4"}},
    {"RemovedType5", [] { return lone_tensor({32}, 5); }, {"'t'", "type 5"}},
    {"RemovedType31", [] { return lone_tensor({32}, 31); }, {"'t'", "type 31"}},
    {"UnknownType99", [] { return lone_tensor({32}, 99); }, {"'t'", "type 99"}},
    {"HalfABlock", [] { return lone_tensor({33}, 8); }, {"'t'", "Q8_0", "33"}},
    {"TensorNameTooLong",
     [] { return lone_tensor({4}, 0, std::string(64, 'n')); },
     {"name of tensor 0"}},
    {"TensorNameEmpty", [] { return lone_tensor({4}, 0, ""); }, {"name of tensor 0"}},
    {"TensorNameTwice",
     [] { return changed([](auto& g) { g.tensors.push_back(g.tensors[1]); }); },
     {"blk.0.attn_norm.weight", "twice"}},
    {"OffsetUnaligned",
     [] { return changed([](auto& g) { g.tensors[1].offset = 33; }); },
     {"blk.0.attn_norm.weight", "found 33"}},
    {"OffsetPastEnd",
     [] { return changed([](auto& g) { g.tensors[1].offset = 1 << 30; }); },
     {"blk.0.attn_norm.weight", "1073741824"}},
    {"OneByteMissing",
     [] {
       std::string bytes = tiny_model().bytes();
       bytes.pop_back();
       return bytes;
     },
     {"output_norm.weight", "1 bytes", "missing"}},
    {"Overlap",
     [] { return changed([](auto& g) { g.tensors[1].offset = 0; }); },
     {"blk.0.attn_norm.weight"}},
    {"Hole",
     [] { return changed([](auto& g) { g.tensors.back().offset = g.bytes().size(); }); },
     {"output_norm.weight"}},
    // What the model means.
    {"NoArchitecture",
     [] { return changed([](auto& g) { g.remove("general.architecture"); }); },
     {"general.architecture", "missing"}},
    {"OtherArchitecture",
     [] { return changed([](auto& g) { g.set("general.architecture", "mamba"); }); },
     {"general.architecture", "vga", "llama", "mamba"}},
    {"ArchitectureNotAString",
     [] { return changed([](auto& g) { g.set("general.architecture", 7u); }); },
     {"general.architecture", "string", "7"}},
    {"NoLayers", [] { return with_vga("block_count", 0u); }, {"vga.block_count", "found 0"}},
    {"MillionLayers",
     [] { return with_vga("block_count", 1'000'000u); },
     {"vga.block_count", "1000000"}},
    {"OneLayerTooMany", [] { return with_vga("block_count", 3u); }, {"blk.2.attn_norm.weight"}},
    {"OneLayerTooFew",
     [] { return with_vga("block_count", 1u); },
     {"tensor 'blk.1.", "belongs to no part"}},
    {"NoHeads",
     [] { return with_vga("attention.head_count", 0u); },
     {"vga.attention.head_count", "found 0"}},
    {"NoKvHeads",
     [] { return with_vga("attention.head_count_kv", 0u); },
     {"vga.attention.head_count_kv", "found 0"}},
    {"KvHeadsDoNotDivide",
     [] { return with_vga("attention.head_count_kv", 3u); },
     {"vga.attention.head_count_kv", "4 heads", "found 3"}},
    {"HeadsDifferFromWeights",
     [] { return with_vga("attention.head_count", 6u); },
     {"blk.0.attn_q.weight", "(48, 24)", "(32, 24)"}},
    {"ContextZero", [] { return with_vga("context_length", 0u); }, {"vga.context_length", "0"}},
    {"ContextMax",
     [] { return with_vga("context_length", ~0u); },
     {"vga.context_length", "4294967295"}},
    {"ContextNegative",
     [] {
       return changed(
           [](auto& g) { g.set("vga.context_length", GgufType::i32, raw<int32_t>(-1)); });
     },
     {"vga.context_length", "-1"}},
    {"ThetaZero", [] { return with_vga("rope.freq_base", 0.f); }, {"vga.rope.freq_base"}},
    {"ThetaNan", [] { return with_vga("rope.freq_base", std::nanf("")); }, {"vga.rope.freq_base"}},
    {"ThetaNegative", [] { return with_vga("rope.freq_base", -1e4f); }, {"vga.rope.freq_base"}},
    {"RopeOdd",
     [] { return with_vga("rope.dimension_count", 7u); },
     {"vga.rope.dimension_count", "found 7"}},
    {"RopeWiderThanHead",
     [] { return with_vga("rope.dimension_count", 16u); },
     {"vga.rope.dimension_count", "found 16"}},
    {"EpsNegative",
     [] { return with_vga("attention.layer_norm_rms_epsilon", -1e-5f); },
     {"vga.attention.layer_norm_rms_epsilon"}},
    {"EpsNan",
     [] { return with_vga("attention.layer_norm_rms_epsilon", std::nanf("")); },
     {"vga.attention.layer_norm_rms_epsilon"}},
    {"RopeScalingUnknown",
     [] { return changed([](auto& g) { g.set("vga.rope.scaling.type", "dynamic"); }); },
     {"vga.rope.scaling.type", "dynamic", "cached"}},
    {"YarnWithoutItsContext",
     [] { return changed([](auto& g) { g.set("vga.rope.scaling.type", "yarn"); }); },
     {"vga.rope.scaling.original_context_length", "missing"}},
    {"RopeScaleNegative",
     [] { return with_vga("rope.scaling.factor", -2.f); },
     {"vga.rope.scaling.factor"}},
    {"RopeScaleAttention",
     [] { return with_vga("rope.scaling.attn_factor", 1.2f); },
     {"vga.rope.scaling.attn_factor"}},
    {"RopeFactorsTooMany",
     [] {
       return rope_factors({1, 2, 3, 4, 5});
     },
     {"rope_freqs.weight", "(4)", "(5)"}},
    {"RopeFactorZero",
     [] {
       return rope_factors({1, 2, 0, 4});
     },
     {"rope_freqs.weight", "0.0", "at 2"}},
    {"RopeFactorNegative",
     [] {
       return rope_factors({1, 2, 3, -4});
     },
     {"rope_freqs.weight", "-4"}},
    {"RopeFactorNan",
     [] {
       return rope_factors({1, std::nanf(""), 3, 4});
     },
     {"rope_freqs.weight"}},
    {"RopeFactorInfinite",
     [] {
       return rope_factors({INFINITY, 2, 3, 4});
     },
     {"rope_freqs.weight"}},
    {"SlidingWindow",
     [] { return with_vga("attention.sliding_window", 4096u); },
     {"vga.attention.sliding_window", "4096"}},
    {"Experts", [] { return with_vga("expert_count", 8u); }, {"vga.expert_count", "experts", "8"}},
    {"NotCausal",
     [] {
       return changed(
           [](auto& g) { g.set("vga.attention.causal", GgufType::boolean, std::string(1, '\0')); });
     },
     {"vga.attention.causal"}},
    {"HiddenDiffersFromWeights",
     [] { return with_vga("embedding_length", 32u); },
     {"token_embd.weight", "(32, 32)", "(32, 24)"}},
    {"WeightTypeUnsupported",
     [] {
       return changed([](auto& g) {
         auto* t = g.find_tensor("blk.0.attn_norm.weight");
         t->type = 28;  // F64
         t->data.resize(24 * 8);
       });
     },
     {"blk.0.attn_norm.weight", "F64"}},
    {"GateTensorMissing",
     [] { return changed([](auto& g) { g.remove_tensor("blk.1.attn_gate.weight"); }); },
     {"blk.1.attn_gate.weight", "missing"}},
    {"GateTensorWrongShape",
     [] {
       return changed([](auto& g) {
         g.find_tensor("blk.0.attn_gate.weight")->dims = {16, 2};
         g.find_tensor("blk.0.attn_gate.weight")->data.resize(16 * 2 * 4);
       });
     },
     {"blk.0.attn_gate.weight", "(4, 16)", "(2, 16)"}},
    {"GateSourceMissing",
     [] { return changed([](auto& g) { g.remove("vga.attention.gate.source"); }); },
     {"vga.attention.gate.source", "missing"}},
    {"GateSourceUnknown",
     [] { return changed([](auto& g) { g.set("vga.attention.gate.source", "query"); }); },
     {"vga.attention.gate.source", "query"}},
    {"GatePlacementMissing",
     [] { return changed([](auto& g) { g.remove("vga.attention.gate.placement"); }); },
     {"vga.attention.gate.placement", "missing"}},
    {"GatePlacementUnknown",
     [] { return changed([](auto& g) { g.set("vga.attention.gate.placement", "middle"); }); },
     {"vga.attention.gate.placement", "middle"}},
    {"GateGranularityUnknown",
     [] { return changed([](auto& g) { g.set("vga.attention.gate.granularity", "layer"); }); },
     {"vga.attention.gate.granularity", "layer"}},
    {"GateSourceNoneButTensors",
     [] { return changed([](auto& g) { g.set("vga.attention.gate.source", "none"); }); },
     {"blk.0.attn_gate.weight"}},
    {"LlamaWithAGateOfNoKeys",
     [] {
       return changed([](auto& g) {
         g.set("general.architecture", "llama");
         std::erase_if(g.values,
                       [](auto& value) { return value.key.starts_with("vga.attention.gate"); });
         for (auto& value : g.values) {
           if (value.key.starts_with("vga.")) value.key = "llama." + value.key.substr(4);
         }
       });
     },
     {"blk.0.attn_gate.weight"}},
    {"WindowPatternTooShort",
     [] {
       return changed([](auto& g) {
         g.set("general.architecture", "gemma3");
         for (auto& value : g.values) {
           if (value.key.starts_with("vga.")) value.key = "gemma3." + value.key.substr(4);
         }
         g.set("gemma3.attention.sliding_window", 8u);
         g.set_array("gemma3.attention.sliding_window_pattern", GgufType::boolean, 1, "\1");
       });
     },
     {"gemma3.attention.sliding_window_pattern", "2 layers"}},
    // Tokenizer.
    {"TokenizerMissing",
     [] { return changed([](auto& g) { g.remove("tokenizer.ggml.model"); }); },
     {"tokenizer.ggml.model"}},
    {"TokenizerUnknown",
     [] { return changed([](auto& g) { g.set("tokenizer.ggml.model", "bert"); }); },
     {"tokenizer.ggml.model", "bert"}},
    {"FewerTokensThanRows",
     [] {
       return changed([](auto& g) {
         g.set_strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a"});
         g.set_array("tokenizer.ggml.scores", GgufType::f32, 4, std::string(16, '\0'));
         g.set_array("tokenizer.ggml.token_type", GgufType::i32, 4,
                     raw(2) + raw(3) + raw(3) + raw(1));
       });
     },
     {"tokenizer.ggml.tokens", "32", "4"}},
    {"ScoresTooShort",
     [] {
       return changed([](auto& g) {
         g.set_array("tokenizer.ggml.scores", GgufType::f32, 2, std::string(8, '\0'));
       });
     },
     {"tokenizer.ggml.scores", "32", "2"}},
    {"TypesTooShort",
     [] {
       return changed(
           [](auto& g) { g.set_array("tokenizer.ggml.token_type", GgufType::i32, 1, raw(2)); });
     },
     {"tokenizer.ggml.token_type", "32", "1"}},
    {"BosOutOfRange",
     [] { return changed([](auto& g) { g.set("tokenizer.ggml.bos_token_id", 32u); }); },
     {"tokenizer.ggml.bos_token_id", "32"}},
    {"EosOutOfRange",
     [] { return changed([](auto& g) { g.set("tokenizer.ggml.eos_token_id", 1u << 31); }); },
     {"tokenizer.ggml.eos_token_id", "2147483648"}},
    {"UnkOutOfRange",
     [] { return changed([](auto& g) { g.set("tokenizer.ggml.unknown_token_id", 99u); }); },
     {"tokenizer.ggml.unknown_token_id", "99"}},
    {"ByteTokenNegative", [] { return byte_token("<0x-1>"); }, {"tokenizer.ggml.tokens", "<0x-1>"}},
    {"ByteTokenNotHex", [] { return byte_token("<0xGG>"); }, {"tokenizer.ggml.tokens", "<0xGG>"}},
    {"ByteTokensIncomplete", [] { return byte_token("<0x41>"); }, {"tokenizer.ggml.tokens"}},
    {"DuplicateToken",
     [] {
       return changed([](auto& g) {
         auto tokens = byte_vocab("q");
         tokens[9] = "q";
         g.set_strings("tokenizer.ggml.tokens", tokens);
       });
     },
     {"tokenizer.ggml.tokens", "'q'"}},
    {"VocabularyOfOne",
     [] {
       return changed([](auto& g) {
         g.set("vga.vocab_size", 1u);
         g.find_tensor("token_embd.weight")->dims = {24, 1};
         g.find_tensor("token_embd.weight")->data.resize(24 * 4);
         g.set_strings("tokenizer.ggml.tokens", {"<unk>"});
         g.set_array("tokenizer.ggml.scores", GgufType::f32, 1, raw(0.f));
         g.set_array("tokenizer.ggml.token_type", GgufType::i32, 1, raw(2));
       });
     },
     {"tokenizer.ggml.", "token_id"}},
    {"TokenOf2GiB",
     [] {
       return changed([](auto& g) {
         g.set_array("tokenizer.ggml.tokens", GgufType::string, 1, raw(uint64_t{1} << 31));
       });
     },
     {"tokenizer.ggml.tokens", "2147483648"}},
    // Split files.
    {"OneOfManyParts",
     [] { return changed([](auto& g) { g.set("split.count", GgufType::u16, raw<uint16_t>(3)); }); },
     {"split.count", "3 parts", "merge"}},
};

class BadModels : public testing::TestWithParam<BadModel> {};

Outcome run_generate(const std::filesystem::path& model) {
  return run("vga-generate -p x -n 1 -m '" + model.string() + "'");
}

TEST_P(BadModels, OneClearLine) {
  const BadModel& bad = GetParam();
  const TemporaryDirectory directory;
  const auto path = directory.write("bad.gguf", bad.make());

  std::string message;
  try {
    const Model model = Model::load(path);
    model.tokenizer();
    FAIL() << "was accepted";
  } catch (const Error& error) {
    message = error.what();
  }
  EXPECT_NE(message.find("bad.gguf"), std::string::npos) << message;
  for (const char* said : bad.says) {
    EXPECT_NE(message.find(said), std::string::npos) << "'" << said << "' is not in: " << message;
  }

  const Outcome outcome = run_generate(path);
  EXPECT_EQ(outcome.status, 1) << outcome.errors;
  EXPECT_EQ(outcome.errors, "vga-generate: error: " + message + "\n");

  // What cannot be looked at either is an error, all else says why it cannot be run. That there is
  // no tokenizer is no reason.
  const Outcome inspected = run("vga-inspect --json '" + path.string() + "'");
  if (inspected.status != 0) {
    EXPECT_EQ(inspected.errors, "vga-inspect: error: " + message + "\n");
  } else if (std::string_view(bad.name) != "TokenizerMissing") {
    const auto report = nlohmann::json::parse(inspected.output);
    EXPECT_EQ(report.at("runnable"), false);
    EXPECT_EQ(report.value("problem", ""), message);
  }
}

INSTANTIATE_TEST_SUITE_P(Gguf, BadModels, testing::ValuesIn(bad_models),
                         [](const auto& row) { return std::string(row.param.name); });

// The image that the rows above change is itself good.
TEST(GoodModel, TinyModelRuns) {
  const TemporaryDirectory directory;
  const auto path = directory.write("good.gguf", tiny_model().bytes());
  const Model model = Model::load(path);
  Session session(model, {.n_threads = 1});
  const auto logits = prefill(session, model.tokenizer().encode_prompt("abc"));
  ASSERT_EQ(logits.size(), 32u);
  for (const float logit : logits) EXPECT_TRUE(std::isfinite(logit));
  EXPECT_EQ(run_generate(path).status, 0);
}

TEST(GoodModel, InspectFindsNanInANorm) {
  const TemporaryDirectory directory;
  GgufImage image = tiny_model();
  const auto good = directory.write("good.gguf", image.bytes());
  EXPECT_EQ(run("vga-inspect --check-tensors '" + good.string() + "'").status, 0);
  image.find_tensor("blk.1.ffn_norm.weight")->data.replace(4, 4, raw(std::nanf("")));
  const auto bad = directory.write("bad.gguf", image.bytes());
  const Outcome outcome = run("vga-inspect --check-tensors '" + bad.string() + "'");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.errors.find("'blk.1.ffn_norm.weight': 1 values"), std::string::npos);
}

TEST(GoodModel, TrailingBytesOnlyWarn) {
  const TemporaryDirectory directory;
  GgufImage image = tiny_model();
  image.trailing = std::string(100, '!');
  const Gguf gguf = Gguf::open(directory.write("good.gguf", image.bytes()));
  EXPECT_EQ(gguf.trailing_bytes(), 100u);
}

TEST(GoodModel, ControlCharactersInNamesArePrintedEscaped) {
  const TemporaryDirectory directory;
  GgufImage image = tiny_model();
  image.set("general.name", "evil\x1b[2J\n");
  const Gguf gguf = Gguf::open(directory.write("good.gguf", image.bytes()));
  EXPECT_EQ(describe(*gguf.find("general.name")), "evil\\x1B[2J\\n");
}

struct BadPath {
  const char* name;
  void (*make)(const std::filesystem::path&);
  const char* says;
};

std::ostream& operator<<(std::ostream& out, const BadPath& bad) {
  return out << bad.name;
}

class BadPaths : public testing::TestWithParam<BadPath> {};

TEST_P(BadPaths, OneClearLine) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "bad.gguf";
  GetParam().make(path);
  if (::geteuid() == 0 && std::string_view(GetParam().name) == "Unreadable") {
    GTEST_SKIP() << "root may read everything";
  }
  const Outcome outcome = run_generate(path);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.errors.find("bad.gguf"), std::string::npos) << outcome.errors;
  EXPECT_NE(outcome.errors.find(GetParam().says), std::string::npos) << outcome.errors;
  EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 1);
}

INSTANTIATE_TEST_SUITE_P(
    Files, BadPaths,
    testing::ValuesIn(std::vector<BadPath>{
        {"Missing", [](const auto&) {}, "No such file"},
        {"Directory", [](const auto& path) { std::filesystem::create_directory(path); },
         "directory"},
        {"Fifo", [](const auto& path) { ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0); },
         "not a regular file"},
        {"Device", [](const auto& path) { std::filesystem::create_symlink("/dev/zero", path); },
         "not a regular file"},
        {"Loop", [](const auto& path) { std::filesystem::create_symlink(path, path); },
         "symbolic links"},
        {"Unreadable",
         [](const auto& path) {
           std::ofstream(path) << "x";
           std::filesystem::permissions(path, std::filesystem::perms::none);
         },
         "Permission denied"},
    }),
    [](const auto& row) { return std::string(row.param.name); });

}  // namespace
}  // namespace vga::test
