/// Checkpoints into GGUF: what must come out right, and bad input, one row each: what is wrong, and
/// what the one-line message must name.

#include <cmath>
#include <csignal>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "checkpoint.h"
#include "checkpoint_image.h"
#include "config_json.h"
#include "conversion.h"
#include "gguf/decode.h"
#include "gguf/encode.h"
#include "llama2c.h"
#include "model/families.h"
#include "names.h"

namespace vga::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json good_config(bool llama) {
  json config = {{"model_type", llama ? "llama" : "vga"},
                 {"hidden_size", 8},
                 {"intermediate_size", 40},
                 {"num_hidden_layers", 1},
                 {"num_attention_heads", 2},
                 {"num_key_value_heads", 1},
                 {"head_dim", 4},
                 {"vocab_size", 32},
                 {"max_position_embeddings", 16},
                 {"rms_norm_eps", 1e-5}};
  if (!llama) {
    config["attention_gate"] = {
        {"source", "value"}, {"placement", "output"}, {"granularity", "head"}, {"bias", true}};
  }
  return config;
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

ConfigJson parse(const json& config) {
  const std::string dump = config.dump();
  return parse_config_json(bytes_of(dump), "config.json");
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
  EXPECT_EQ(parse(with(plain, nullptr, nullptr)).config.rope_tables[0].factor, 1);
  EXPECT_EQ(parse(with(plain, {{"rope_theta", 5e5}, {"rope_type", "default"}}, nullptr))
                .config.rope_tables[0]
                .theta,
            5e5);
  EXPECT_EQ(parse(with(linear, newer, 5e5)).config.rope_tables[0].factor, 4);
  EXPECT_EQ(parse(with(llama3, llama3, nullptr)).rope_factors.size(), 32u);
  for (const json& bad :
       {with(linear, plain, nullptr), with(plain, llama3, nullptr), with(linear, llama3, nullptr),
        with(llama3_scaling("factor", 8), llama3, nullptr)}) {
    const auto message = message_of([&] { parse(bad); });
    EXPECT_NE(message.find("'rope_parameters': contradicts"), std::string::npos) << message;
  }
  const auto message = message_of([&] { parse(with(linear, newer, 1e4)); });
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
  for (const json& window : {json(nullptr), json(0)}) {
    json config = good_config(true);
    config["model_type"] = "mistral";
    config["sliding_window"] = window;
    const std::string dump = config.dump();
    EXPECT_EQ(parse_config_json(bytes_of(dump), "config.json").config.family, "llama");
  }
}

TEST(ConvertConfig, RefusesWhatItCannotRepresent) {
  struct Row {
    const char* path;
    json value;
    const char* says;
  };
  const std::vector<Row> rows = {{"/model_type", "gpt2", "vga, llama or mistral"},
                                 {"/model_type", nullptr, "'model_type' is missing"},
                                 {"/hidden_size", -8, "hidden_size"},
                                 {"/hidden_size", 8.5, "hidden_size"},
                                 {"/hidden_size", 1e300, "hidden_size"},
                                 {"/hidden_size", "8", "hidden_size"},
                                 {"/hidden_size", 0, "hidden_size"},
                                 {"/num_hidden_layers", 1000000, "num_hidden_layers"},
                                 {"/num_key_value_heads", 3, "num_key_value_heads"},
                                 {"/head_dim", 3, "rope"},
                                 {"/vocab_size", nullptr, "'vocab_size' is missing"},
                                 {"/rms_norm_eps", -1, "rms_norm_eps"},
                                 {"/rope_theta", 0, "rope_theta"},
                                 {"/rope_scaling", {{"type", "yarn"}, {"factor", 2}}, "scores"},
                                 {"/rope_scaling", {{"type", "dynamic"}}, "grows"},
                                 {"/rope_scaling", {{"rope_type", "longrope"}}, "long texts"},
                                 {"/rope_scaling", {{"rope_type", "mine"}}, "unknown"},
                                 {"/rope_scaling", {{"factor", 2}}, "rope_type"},
                                 {"/rope_scaling", {{"rope_type", "llama3"}}, "factor"},
                                 {"/rope_scaling", llama3_scaling("factor", 0.5), "factor"},
                                 {"/rope_scaling", llama3_scaling("factor", nullptr), "factor"},
                                 {"/rope_scaling", llama3_scaling("high_freq_factor", 1), "more"},
                                 {"/rope_scaling", llama3_scaling("beta", 1), "'beta'"},
                                 {"/rope_parameters", {{"full_attention", json::object()}}, "full"},
                                 {"/rope_scaling", {{"type", "default"}, {"factor", 2}}, "factor"},
                                 {"/rope_parameters", {{"partial_rotary_factor", 0.5}}, "rotary"},
                                 {"/attention_bias", true, "attention_bias"},
                                 {"/mlp_bias", true, "mlp_bias"},
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
  json llama = good_config(true);
  llama["attention_gate"] = good_config(false)["attention_gate"];
  const std::string dump = llama.dump();
  message_of([&] { parse_config_json(bytes_of(dump), "config.json"); });
}

TEST(ConvertLlama2c, ChecksItsSize) {
  std::string header;
  for (const int32_t n : {4, 8, 1, 2, 1, 10, 6}) header += raw(n);
  // Embedding 40, norms 4 + 4 + 4, q 16, k 8, v 8, o 16, ffn 3 * 32, two tables of 6.
  const std::string good = header + std::string(4 * (40 + 12 + 48 + 96 + 12), '\0');
  EXPECT_TRUE(parse_llama2c(bytes_of(good), "good").config.tied_embeddings);
  std::string zero = good;
  zero.replace(8, 4, raw<int32_t>(0));
  std::string negative = good;
  negative.replace(20, 4, raw<int32_t>(INT32_MIN));
  expect_refused({{"Empty", "", "too small"},
                  {"CutOff", good.substr(0, good.size() - 1), "cut off"},
                  {"Trailing", good + "x", "1 bytes behind"},
                  {"ZeroLayers", zero, "n_layers"},
                  {"VocabMinimum", negative, "vocab_size"},
                  {"Newer", raw<int32_t>(0x616b3432) + good.substr(4), "version"}},
                 parse_llama2c);
}

TEST(ConvertNames, MapsAndRenames) {
  for (const WeightSpec& spec : weight_specs([] {
         const std::string dump = good_config(false).dump();
         return parse_config_json(bytes_of(dump), "config.json").config;
       }())) {
    EXPECT_EQ(gguf_name(hugging_face_name(spec.name)), spec.name);
  }
  EXPECT_FALSE(gguf_name("model.layers.01.mlp.up_proj.weight"));
  EXPECT_FALSE(gguf_name("model.layers..mlp.up_proj.weight"));
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
  const std::string embedding = "model.embed_tokens.weight";
  EXPECT_EQ(common_prefix({"a.b", embedding}), "");
  EXPECT_EQ(common_prefix({"base_model.model." + embedding, "x"}), "base_model.model.");
  EXPECT_EQ(common_prefix({"a." + embedding, "b." + embedding}), "");
  EXPECT_EQ(common_prefix({"my" + embedding}), "");
}

/// The values that the test's checkpoints hold: small, different in each place, exact in bf16.
float value_at(size_t i) {
  return static_cast<float>(static_cast<int>(i % 61) - 30) / 8;
}

/// A checkpoint folder with every tensor the config asks for, in one safetensors file.
struct Folder {
  TemporaryDirectory directory;
  json config;

  explicit Folder(json given, DType type = DType::f32) : config(std::move(given)) {
    write_file(path() / "config.json", config.dump());
    write_weights(type);
  }
  fs::path path() const { return directory.path(); }
  fs::path output() const { return path() / "out.gguf"; }

  void write_weights(DType type, float poison = 0) {
    const std::string dump = config.dump();
    const char* type_name = type == DType::f32 ? "F32" : type == DType::f16 ? "F16" : "BF16";
    std::string header = "{";
    std::string data;
    for (const WeightSpec& spec :
         weight_specs(parse_config_json(bytes_of(dump), "config.json").config)) {
      const bool vector = spec.name.ends_with("norm.weight") || spec.name.ends_with(".bias");
      const size_t begin = data.size();
      std::vector<float> values(spec.rows * spec.cols);
      for (size_t i = 0; i < values.size(); ++i) values[i] = value_at(i);
      if (poison != 0 && spec.name == "blk.0.ffn_up.weight") values.back() = poison;
      data.resize(begin + row_bytes(type, values.size()));
      encode_row(type, values, reinterpret_cast<std::byte*>(data.data() + begin));
      header += (header.size() > 1 ? "," : "") +
                entry(hugging_face_name(spec.name), type_name,
                      vector ? json({spec.cols}).dump() : json({spec.rows, spec.cols}).dump(),
                      json({begin, data.size()}).dump());
    }
    write_file(path() / "model.safetensors", safetensors(header + "}", data));
  }

  void convert(DType type, const ConversionProgress& progress = {}) const {
    const Checkpoint checkpoint = open_checkpoint(path(), {});
    write_conversion(plan_conversion(checkpoint, quantization_from_name(name(type)), {}), output(),
                     progress);
  }
  /// Files in the folder.
  ptrdiff_t n_files() const {
    return std::distance(fs::directory_iterator(path()), fs::directory_iterator());
  }
};

TEST(ConvertRoundTrip, EveryTypeFromEveryType) {
  for (const DType source : {DType::f32, DType::f16, DType::bf16}) {
    const Folder folder(good_config(false), source);
    for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0}) {
      SCOPED_TRACE(std::string(name(source)) + " to " + std::string(name(type)));
      folder.convert(type);
      const Gguf gguf = Gguf::open(folder.output());
      const Config config = read_config(gguf);
      EXPECT_TRUE(config.gate.bias);
      bind_weights(gguf, config);
      for (const GgufTensor& tensor : gguf.tensors()) {
        // Rows of 4, 8 and 40 are no whole q8_0 blocks: those become f16, exact here too.
        const DType written = *dtype_from_gguf(tensor.type);
        std::vector<float> values(tensor.dims[0] * tensor.dims[1]);
        decode_row(written, tensor.data.data(), values);
        for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], value_at(i)) << tensor.name;
      }
    }
  }
}

TEST(ConvertRoundTrip, Q8_0FallsBackRowByRow) {
  json config = good_config(false);
  config["intermediate_size"] = 64;
  const Folder folder(config);
  folder.convert(DType::q8_0);
  const Gguf gguf = Gguf::open(folder.output());
  EXPECT_EQ(gguf.find_tensor("blk.0.ffn_down.weight")->type, static_cast<uint32_t>(DType::q8_0));
  EXPECT_EQ(gguf.find_tensor("blk.0.ffn_up.weight")->type, static_cast<uint32_t>(DType::f16));
  EXPECT_EQ(gguf.find_tensor("blk.0.attn_gate.weight")->type, static_cast<uint32_t>(DType::f32));
  std::vector<float> row(64);
  decode_row(DType::q8_0, gguf.find_tensor("blk.0.ffn_down.weight")->data.data(), row);
  for (size_t i = 0; i < row.size(); ++i) EXPECT_NEAR(row[i], value_at(i), 3.75 / 127);
}

TEST(ConvertRoundTrip, LlamaRowsArePermuted) {
  const Folder folder(good_config(true));
  folder.convert(DType::f32);
  const Gguf gguf = Gguf::open(folder.output());
  const size_t old_rows[] = {0, 2, 1, 3, 4, 6, 5, 7};  // two heads of 4
  std::vector<float> q(64);
  decode_row(DType::f32, gguf.find_tensor("blk.0.attn_q.weight")->data.data(), q);
  for (size_t i = 0; i < q.size(); ++i) EXPECT_EQ(q[i], value_at(old_rows[i / 8] * 8 + i % 8));
}

TEST(ConvertOutput, AppearsWholeOrNotAtAll) {
  Folder folder(good_config(false));
  const auto before = folder.n_files();
  size_t pieces = 0;
  folder.convert(DType::f32, [&](uint64_t, std::string_view) { return ++pieces < 10; });
  EXPECT_EQ(pieces, 10U);
  EXPECT_EQ(folder.n_files(), before) << "interrupted";
  for (const float poison : {NAN, INFINITY, 1e6f}) {
    folder.write_weights(DType::f32, poison);
    const auto message = message_of([&] { folder.convert(DType::f16); });
    EXPECT_NE(message.find("mlp.up_proj.weight"), std::string::npos) << message;
    EXPECT_EQ(folder.n_files(), before) << poison;
  }
  // A disk that is full after one KiB.
  folder.write_weights(DType::f32);
  rlimit unlimited{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &unlimited), 0);
  const rlimit small{1024, unlimited.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  const auto message = message_of([&] { folder.convert(DType::f32); });
  ::setrlimit(RLIMIT_FSIZE, &unlimited);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_NE(message.find("out.gguf"), std::string::npos) << message;
  EXPECT_EQ(folder.n_files(), before) << "disk full";
}

TEST(ConvertOutput, KeepsLinksPermissionsAndDevices) {
  const TemporaryDirectory directory;
  const auto file = directory.write("file", "old");
  std::filesystem::permissions(file, std::filesystem::perms::owner_read);
  const auto link = directory.path() / "link";
  std::filesystem::create_symlink("file", link);
  OutputFile out(link);
  out.write("new");
  out.commit();
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(read_text(file), "new");
  EXPECT_EQ(std::filesystem::status(file).permissions(), std::filesystem::perms::owner_read);
  message_of([&] { const OutputFile device("/dev/null"); });
  message_of([&] { const OutputFile folder(directory.path()); });
}

TEST(ConvertOutput, SparesItsInput) {
  const Folder folder(good_config(false));
  const std::vector<std::string> inputs = {folder.path() / "config.json",
                                           folder.path() / "model.safetensors"};
  message_of([&] { check_output(folder.path() / "model.safetensors", inputs); });
  message_of([&] { check_output(folder.path() / "." / "config.json", inputs); });
  message_of([&] { check_output(folder.path(), inputs); });
  message_of([&] { check_output("/dev/null", inputs); });
  check_output(folder.output(), inputs);
}

TEST(ConvertShards, TheIndexMustBeRight) {
  const auto shard = [](const char* name) {
    return safetensors("{" + entry(name, "F32", "[1]", "[0,4]") + "}", raw(1.0f));
  };
  const TemporaryDirectory directory;
  const fs::path& path = directory.path();
  write_file(path / "config.json", good_config(false).dump());
  write_file(path / "one.safetensors", shard("a"));
  const auto with_index = [&](const char* map, const char* second) {
    write_file(path / "two.safetensors", shard(second));
    write_file(path / "model.safetensors.index.json", R"({"weight_map":)" + std::string(map) + "}");
    return open_checkpoint(path, {});
  };
  EXPECT_EQ(with_index(R"({"a":"one.safetensors","b":"two.safetensors"})", "b").tensors.size(), 2u);
  const auto refused = [&](const char* map, const char* second, const char* says) {
    const auto message = message_of([&] { with_index(map, second); });
    EXPECT_NE(message.find(says), std::string::npos) << message;
  };
  refused(R"({"a":"one.safetensors","b":"two.safetensors"})", "a", "in one.safetensors");
  refused(R"({"a":"one.safetensors","b":"two.safetensors"})", "c", "nowhere");
  refused(R"({"a":"one.safetensors","b":"one.safetensors"})", "b", "'b'");
  refused(R"({"a":"one.safetensors","b":"three.safetensors"})", "b", "three.safetensors");
}

TEST(ConvertFolder, FindsTheWeights) {
  struct Row {
    std::vector<const char*> files;
    const char* says;  // empty: opens
  };
  const std::string weights = safetensors("{" + entry("a", "F32", "[1]", "[0,4]") + "}", raw(1.0f));
  const std::vector<Row> rows = {
      {{"other.safetensors", "optimizer.bin", "training_args.bin"}, ""},
      {{"optimizer.pt", "scheduler.pt", "rng_state.pth"}, "no weights"},
      {{"a.safetensors", "b.safetensors"}, "2 files of weights"},
      {{"adapter_model.safetensors", "adapter_config.json"}, "merge it"},
  };
  for (const Row& row : rows) {
    const TemporaryDirectory directory;
    write_file(directory.path() / "config.json", good_config(false).dump());
    for (const char* file : row.files) write_file(directory.path() / file, weights);
    if (*row.says == '\0') {
      EXPECT_EQ(open_checkpoint(directory.path(), {}).tensors.size(), 1u);
      continue;
    }
    const auto message = message_of([&] { open_checkpoint(directory.path(), {}); });
    EXPECT_NE(message.find(row.says), std::string::npos) << message;
  }
}

TEST(ConvertFolder, CallsLfsPointersByTheirName) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
  for (const char* name : {"model.safetensors", "pytorch_model.bin", "config.json"}) {
    const Folder folder(good_config(false));
    if (std::string_view(name) == "pytorch_model.bin") {
      fs::remove(folder.path() / "model.safetensors");
    }
    write_file(folder.path() / name, pointer);
    for (const fs::path& path : {folder.path(), folder.path() / name}) {
      if (path.extension() == ".json") continue;
      const auto message = message_of([&] { open_checkpoint(path, {}); });
      EXPECT_NE(message.find(std::string(name) + ": is a Git LFS pointer"), std::string::npos)
          << message;
    }
  }
}

TEST(ConvertFolder, ASnapshotIsCalledByItsModel) {
  const Folder folder(good_config(false));
  const fs::path snapshot =
      folder.path() / "models--owner--my-model-1.5" / "snapshots" / "0123abcd";
  fs::create_directories(snapshot);
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::create_symlink(folder.path() / name, snapshot / name);
  }
  EXPECT_EQ(open_checkpoint(snapshot, {}).config.model_name, "my-model-1.5");
  EXPECT_EQ(open_checkpoint(snapshot / "", {}).config.model_name, "my-model-1.5");
  EXPECT_EQ(open_checkpoint(snapshot / "model.safetensors", {}).config.model_name, "my-model-1.5");
}

/// A tokenizer.model of 32 pieces, <unk>, <s>, </s>, <|eot_id|>, <|eom_id|>, <x> and letters.
std::string small_tokenizer() {
  using Piece = SentencePieceModel::Piece;
  SentencePieceModel model;
  model.algorithm = SentencePieceModel::Algorithm::bpe;
  model.pieces = {Piece{"<unk>", 0, PieceType::unknown}};
  for (const char* text : {"<s>", "</s>", "<|eot_id|>", "<|eom_id|>", "<x>"}) {
    model.pieces.push_back({text, 0, PieceType::control});
  }
  for (size_t i = model.pieces.size(); i < 32; ++i) {
    model.pieces.push_back({std::string(1, static_cast<char>('A' + i)), 0, PieceType::normal});
  }
  model.bos = 1;
  model.eos = 2;
  return serialize(model);
}

struct Ends {
  std::optional<uint64_t> bos, eos, eot, eom;
  std::vector<int64_t> all;
  bool add_bos, add_eos;
  bool operator==(const Ends&) const = default;
};

/// What a file says after a conversion with these JSON files; empty ones are not there.
Ends converted_ends(const json& config, const json& generation, const json& tokenizer,
                    size_t n_notes = 0) {
  json fields = good_config(false);
  if (!config.is_null()) fields.update(config);
  const Folder folder(fields);
  write_file(folder.path() / "tokenizer.model", small_tokenizer());
  if (!generation.empty()) write_file(folder.path() / "generation_config.json", generation.dump());
  if (!tokenizer.empty()) write_file(folder.path() / "tokenizer_config.json", tokenizer.dump());
  const Checkpoint checkpoint = open_checkpoint(folder.path(), {});
  const Conversion conversion = plan_conversion(checkpoint, quantization_from_name("f32"), {});
  EXPECT_EQ(conversion.notes.size(), n_notes);
  write_conversion(conversion, folder.output());
  const Gguf gguf = Gguf::open(folder.output());
  const auto id = [&](const char* key) {
    return gguf.integer("tokenizer.ggml." + std::string(key));
  };
  return {id("bos_token_id"),
          id("eos_token_id"),
          id("eot_token_id"),
          id("eom_token_id"),
          gguf.integers("tokenizer.ggml.eos_token_ids").value_or(std::vector<int64_t>()),
          *gguf.boolean("tokenizer.ggml.add_bos_token"),
          *gguf.boolean("tokenizer.ggml.add_eos_token")};
}

TEST(ConvertTokens, FollowTheFolder) {
  const std::optional<uint64_t> none;
  EXPECT_EQ(converted_ends({}, {}, {}), (Ends{1, 2, none, none, {}, true, false}));
  EXPECT_EQ(converted_ends({{"eos_token_id", 5}, {"bos_token_id", 7}}, {}, {}),
            (Ends{7, 5, none, none, {5}, true, false}));
  EXPECT_EQ(converted_ends({{"eos_token_id", {2, 5}}}, {{"eos_token_id", {8, 4, 3, 5}}}, {}),
            (Ends{1, 8, 3, 4, {8, 4, 3, 5, 2}, true, false}));
  EXPECT_EQ(converted_ends({{"eos_token_id", 2}}, {},
                           {{"eos_token", {{"content", "<|eot_id|>"}, {"lstrip", false}}},
                            {"bos_token", "<x>"},
                            {"add_bos_token", false},
                            {"add_eos_token", true}}),
            (Ends{5, 3, none, none, {3, 2}, false, true}));
  // A token that is not there can neither be made nor read.
  EXPECT_EQ(converted_ends({{"eos_token_id", {2, 50256}}, {"bos_token_id", -1}},
                           {{"eos_token_id", nullptr}}, {{"eos_token", "<none>"}}, 2),
            (Ends{1, 2, none, none, {2}, true, false}));
  message_of([] { converted_ends({{"eos_token_id", "2"}}, {}, {}); });
  message_of([] { converted_ends({}, {{"eos_token_id", {1.5}}}, {}); });
  message_of([] { converted_ends({}, {}, {{"add_bos_token", 1}}); });
  message_of([] { converted_ends({}, {}, {{"eos_token", 2}}); });
}

TEST(ConvertPlan, AHeadThatDiffersFromItsEmbeddingIsKept) {
  const fs::path cases = fs::path(VGA_SOURCE_DIR) / "tests/data/checkpoints";
  const Quantization f32 = quantization_from_name("f32");
  const Checkpoint copy = open_checkpoint(cases / "head_is_a_copy", {});
  const Conversion tied = plan_conversion(copy, f32, {});
  EXPECT_EQ(tied.skipped.size(), 1u);
  EXPECT_TRUE(tied.notes.empty());
  const Checkpoint other = open_checkpoint(cases / "head_differs_though_tied", {});
  const Conversion untied = plan_conversion(other, f32, {});
  EXPECT_TRUE(untied.skipped.empty());
  ASSERT_EQ(untied.notes.size(), 1u);
  EXPECT_NE(untied.notes[0].find("lm_head.weight"), std::string::npos);
}

TEST(ConvertPlan, SkipsWhatItIsTold) {
  const fs::path cases = fs::path(VGA_SOURCE_DIR) / "tests/data/checkpoints";
  const Quantization f32 = quantization_from_name("f32");
  const Checkpoint merged = open_checkpoint(cases / "peft_merged", {});
  const auto adapter = message_of([&] { plan_conversion(merged, f32, {}); });
  EXPECT_NE(adapter.find("merge_and_unload"), std::string::npos) << adapter;
  EXPECT_EQ(plan_conversion(merged, f32, {{Skip("lora_")}, {}}).skipped.size(), 4u);
  const Checkpoint own = open_checkpoint(cases / "own_loop", {});
  const auto buffer = message_of([&] { plan_conversion(own, f32, {}); });
  EXPECT_NE(buffer.find("'causal_mask': is no part of this model"), std::string::npos) << buffer;
}

TEST(ConvertPlan, NamesTheTensorAtFault) {
  struct Row {
    const char* key;  // of the config, changed behind the weights' back
    json value;
    const char* says;
  };
  const std::vector<Row> rows = {
      {"num_hidden_layers", 2, "model.layers.1"},
      {"intermediate_size", 41, "wanted shape (41, 8), found (40, 8)"},
      {"vocab_size", 33, "model.embed_tokens.weight"},
      {"attention_gate", {{"source", "none"}}, "gate_proj"},
  };
  for (const Row& row : rows) {
    const Folder folder(good_config(false));
    json config = folder.config;
    config[row.key] = row.value;
    write_file(folder.path() / "config.json", config.dump());
    const auto message = message_of([&] { folder.convert(DType::f32); });
    EXPECT_NE(message.find(row.says), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace vga::test
