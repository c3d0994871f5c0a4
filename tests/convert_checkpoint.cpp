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
    const ConfigJson parsed = parse_config_json(bytes_of(dump), "config.json");
    const NameMap names(name_table(parsed.model_type), {});
    for (const WeightSpec& spec : weight_specs(parsed.config)) {
      const bool vector = spec.is_vector();
      const size_t begin = data.size();
      std::vector<float> values(spec.rows * spec.cols);
      for (size_t i = 0; i < values.size(); ++i) values[i] = value_at(i);
      if (poison != 0 && spec.name == "blk.0.ffn_up.weight") values.back() = poison;
      data.resize(begin + row_bytes(type, values.size()));
      encode_row(type, values, reinterpret_cast<std::byte*>(data.data() + begin));
      header += (header.size() > 1 ? "," : "") +
                entry(names.source_of(spec.name), type_name,
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
      {{"adapter_model.safetensors", "adapter_config.json"}, "--base"},
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

TEST(ConvertFolder, ATemplateMayBeginWithAByteOrderMark) {
  const Folder folder(good_config(false));
  const std::string jinja = "{{ messages[0].content }}";
  for (const std::string& text : {jinja, "\xEF\xBB\xBF" + jinja}) {
    write_file(folder.path() / "chat_template.jinja", text);
    EXPECT_EQ(open_checkpoint(folder.path(), {}).chat_template, jinja);
  }
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
