/// vga-quantize: which tensor gets which type, what is carried over, how wrong input ends.

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/file.h"
#include "gguf/decode.h"
#include "gguf/encode.h"
#include "gguf/gguf.h"
#include "gguf_image.h"
#include "logits.h"
#include "model/families.h"
#include "model/weights.h"
#include "quantization.h"
#include "run_program.h"
#include "vga/error.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

namespace fs = std::filesystem;

std::string quoted(const fs::path& path) {
  return "'" + path.string() + "'";
}

Outcome quantize(const fs::path& in, const fs::path& out, const std::string& rest) {
  return run("vga-quantize " + quoted(in) + " " + quoted(out) + " " + rest);
}

size_t n_files(const fs::path& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

/// Names that quantize at all, with what most of their matrices become.
const std::map<std::string, DType> all_names = {
    {"q4_0", DType::q4_0}, {"q4_1", DType::q4_1}, {"q4_k", DType::q4_k}, {"q4_k_m", DType::q4_k},
    {"q5_0", DType::q5_0}, {"q5_1", DType::q5_1}, {"q5_k", DType::q5_k}, {"q5_k_m", DType::q5_k},
    {"q6_k", DType::q6_k}, {"q8_0", DType::q8_0}, {"bf16", DType::bf16}, {"f16", DType::f16},
    {"f32", DType::f32}};

TEST(Quantization, NamesInAnyCase) {
  for (const auto& [name, type] : all_names) {
    EXPECT_EQ(quantization_from_name(name).type, type) << name;
    EXPECT_NE(quantization_names().find(name), std::string::npos) << name;
  }
  EXPECT_EQ(quantization_from_name("Q4_K_M").name, "q4_k_m");
  for (const char* wrong : {"", "q4", "q4_k_s", "q8_1", "q4_0 "}) {
    EXPECT_THROW(quantization_from_name(wrong), Error) << wrong;
  }
}

TEST(Quantization, MixesGiveMoreBitsWhereErrorsHurt) {
  Config config;
  config.layers.resize(32);
  config.vocab_size = 64;
  config.hidden_size = config.ffn_size = 256;
  const auto wanted = [&](std::string_view quantization, Role role,
                          size_t layer = WeightSpec::no_layer) {
    return quantization_from_name(quantization).wanted({"a tensor", role, layer, 64, 256}, config);
  };
  // llama.cpp's files of the same name have these layers at q6_k.
  const std::set<size_t> more = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31};
  for (size_t layer = 0; layer < 32; ++layer) {
    const DType expected = more.contains(layer) ? DType::q6_k : DType::q4_k;
    EXPECT_EQ(wanted("q4_k_m", Role::attn_v, layer), expected) << layer;
    EXPECT_EQ(wanted("q4_k_m", Role::ffn_down, layer), expected) << layer;
    EXPECT_EQ(wanted("q4_k_m", Role::expert_down, layer), expected) << layer;
    EXPECT_EQ(wanted("q4_k_m", Role::expert_up, layer), DType::q4_k) << layer;
    EXPECT_EQ(wanted("q4_k_m", Role::delta_qkv, layer), DType::q5_k) << layer;
    EXPECT_EQ(wanted("q4_k_m", Role::ffn_up, layer), DType::q4_k) << layer;
    EXPECT_EQ(wanted("q4_k_m", Role::attn_qkv, layer), DType::q5_k) << layer;
    EXPECT_EQ(wanted("q4_k", Role::attn_v, layer), DType::q4_k) << layer;
  }
  // The matrix that makes the logits, by either name.
  for (const auto& [name, type] : all_names) {
    const bool is_coarse = name.starts_with("q4") || name.starts_with("q5");
    const DType output = is_coarse ? DType::q6_k : type;
    config.tied_embeddings = false;
    EXPECT_EQ(wanted(name, Role::output), output) << name;
    EXPECT_EQ(wanted(name, Role::embedding), type) << name;
    config.tied_embeddings = true;
    EXPECT_EQ(wanted(name, Role::embedding), output) << name;
    Quantization pure = quantization_from_name(name);
    pure.pure = true;
    const auto pure_type = [&](Role role) {
      return pure.wanted({"a tensor", role, WeightSpec::no_layer, 1, 256}, config);
    };
    EXPECT_EQ(pure_type(Role::embedding), type) << name;
    EXPECT_EQ(pure_type(Role::norm), DType::f32) << name;
    EXPECT_EQ(pure_type(Role::positions), DType::f32) << name;
  }
}

TEST(Quantization, AMatrixOfLogitsThatOutweighsAllElseGetsFewerBits) {
  // Gemma 3 270M.
  Config config;
  config.vocab_size = 262144;
  config.hidden_size = 640;
  config.ffn_size = 2048;
  config.n_heads = 4;
  config.n_kv_heads = 1;
  config.head_dim = 256;
  config.layers.resize(18);
  config.tied_embeddings = true;
  const auto wanted = [&](std::string_view name) {
    return quantization_from_name(name).wanted(
        {"a tensor", Role::embedding, WeightSpec::no_layer, config.vocab_size, config.hidden_size},
        config);
  };
  for (const char* name : {"q4_0", "q4_1", "q4_k", "q4_k_m", "q5_k", "q5_k_m"}) {
    EXPECT_EQ(wanted(name), DType::q5_k) << name;
  }
  EXPECT_EQ(wanted("q5_1"), DType::q5_1);
  EXPECT_EQ(wanted("q6_k"), DType::q6_k);
  EXPECT_EQ(wanted("q8_0"), DType::q8_0);
  // As much again in the layers, and a little more.
  config.layers.resize(31);
  EXPECT_EQ(wanted("q4_k_m"), DType::q6_k);
}

TEST(Quantization, RowsThatAreNoWholeBlocksGetAnotherType) {
  for (const auto& [name, type] : all_names) EXPECT_EQ(storable(type, 512), type) << name;
  EXPECT_EQ(storable(DType::q4_k, 288), DType::q5_0);
  EXPECT_EQ(storable(DType::q5_k, 288), DType::q5_1);
  EXPECT_EQ(storable(DType::q6_k, 288), DType::q8_0);
  EXPECT_EQ(storable(DType::q4_1, 288), DType::q4_1);
  for (const DType type : {DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0,
                           DType::q4_k, DType::q5_k, DType::q6_k}) {
    EXPECT_EQ(storable(type, 24), DType::f16) << name(type);
  }
  EXPECT_EQ(storable(DType::bf16, 24), DType::bf16);
  EXPECT_EQ(fallback_note(DType::q4_k, DType::q4_k), "");
  EXPECT_NE(fallback_note(DType::q4_k, DType::q5_0).find("256"), std::string::npos);
}

TEST(Quantize, CarriesOverAllElse) {
  GgufImage image = tiny_model();
  image.alignment = 64;
  image.set("general.alignment", uint32_t{64});
  image.set("general.file_type", uint32_t{0});
  image.set("general.quantization_version", uint32_t{1});
  image.set("mine.u8", GgufType::u8, raw(uint8_t{200}));
  image.set("mine.i64", GgufType::i64, raw(int64_t{-5}));
  image.set("mine.f64", GgufType::f64, raw(0.1));
  image.set("mine.bool", GgufType::boolean, raw(uint8_t{1}));
  image.set("mine.text", "several\nlines");
  image.set_array("mine.i16s", GgufType::i16, 3,
                  raw(int16_t{1}) + raw(int16_t{2}) + raw(int16_t{3}));
  image.set_strings("mine.texts", {"", "a", "bc"});
  image.set_array("mine.none", GgufType::string, 0, "");
  const TemporaryDirectory directory;
  const fs::path in = directory.write("in.gguf", image.bytes());
  const fs::path out = directory.path() / "out.gguf";
  const Outcome outcome = quantize(in, out, "BF16");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_EQ(outcome.errors, "");

  const Gguf before = Gguf::open(in);
  const Gguf after = Gguf::open(out);
  EXPECT_EQ(after.alignment(), 64U);
  EXPECT_EQ(after.trailing_bytes(), 0U);
  EXPECT_EQ(after.values().size() + 1, before.values().size());
  for (const auto& [key, value] : before.values()) {
    if (is_quantization_key(key)) continue;
    const GgufValue* found = after.find(key);
    ASSERT_NE(found, nullptr) << key;
    EXPECT_EQ(found->type, value.type) << key;
    EXPECT_EQ(found->element, value.element) << key;
    EXPECT_EQ(found->count, value.count) << key;
    EXPECT_TRUE(std::ranges::equal(found->bytes, value.bytes)) << key;
  }
  EXPECT_EQ(after.integer("general.file_type"), 32U);
  EXPECT_EQ(after.find("general.quantization_version"), nullptr);

  const Config config = read_config(before);
  std::set<std::string, std::less<>> kept;
  for (const WeightSpec& spec : weight_specs(config)) {
    if (spec.keep_float()) kept.insert(spec.name);
  }
  ASSERT_EQ(after.tensors().size(), before.tensors().size());
  for (size_t i = 0; i < after.tensors().size(); ++i) {
    const GgufTensor& a = after.tensors()[i];
    const GgufTensor& b = before.tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.dims, b.dims);
    EXPECT_EQ(a.n_dims, b.n_dims);
    if (kept.contains(a.name)) {
      EXPECT_EQ(a.type, b.type);
      EXPECT_TRUE(std::ranges::equal(a.data, b.data)) << a.name;
    } else {
      EXPECT_EQ(a.type, static_cast<uint32_t>(DType::bf16)) << a.name;
    }
  }
}

/// A real model in f16: 256 columns, but 688 in ffn_down, which no block divides.
class QuantizeModel : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory = new TemporaryDirectory;
    const Outcome outcome =
        run("vga-convert " + quoted(fs::path(VGA_SOURCE_DIR) / "models/twin-vga") + " -o " +
            quoted(f16()) + " --type f16");
    ASSERT_EQ(outcome.status, 0) << outcome.errors;
  }
  static void TearDownTestSuite() { delete directory; }
  static fs::path f16() { return directory->path() / "f16.gguf"; }
  static fs::path out() { return directory->path() / "out.gguf"; }

  static std::vector<float> logits(const fs::path& file) {
    const Model model = Model::load(file);
    Session session(model, {.n_threads = 2});
    const auto prompt = model.tokenizer().encode_prompt("Once upon a time there was a little fox");
    const auto result = prefill(session, prompt);
    return {result.begin(), result.end()};
  }

  static TemporaryDirectory* directory;
};
TemporaryDirectory* QuantizeModel::directory = nullptr;

TEST_F(QuantizeModel, EveryTypeRuns) {
  const std::vector<float> exact = logits(f16());
  const std::map<std::string, std::pair<uint32_t, double>> wanted = {
      // llama.cpp's file type, and how far the logits may go off, relative to their size
      {"q4_0", {2, 0.045}},  {"q4_1", {3, 0.04}},  {"q4_k", {14, 0.04}},  {"q4_k_m", {15, 0.04}},
      {"q5_0", {8, 0.025}},  {"q5_1", {9, 0.022}}, {"q5_k", {16, 0.022}}, {"q5_k_m", {17, 0.022}},
      {"q6_k", {18, 0.016}}, {"q8_0", {7, 0.008}}, {"bf16", {32, 0.003}}, {"f16", {1, 0}},
      {"f32", {0, 1e-6}}};
  for (const auto& [name, type] : all_names) {
    SCOPED_TRACE(name);
    const Outcome outcome = quantize(f16(), out(), name);
    ASSERT_EQ(outcome.status, 0) << outcome.errors;
    EXPECT_EQ(outcome.errors, "");
    const Gguf gguf = Gguf::open(out());
    EXPECT_EQ(gguf.integer("general.file_type"), wanted.at(name).first);
    EXPECT_EQ(gguf.integer("general.quantization_version").value_or(0),
              block_elements(type) > 1 ? 2U : 0U);
    EXPECT_EQ(gguf.find_tensor("blk.1.attn_q.weight")->type, static_cast<uint32_t>(type));
    EXPECT_EQ(gguf.find_tensor("blk.1.ffn_down.weight")->type,
              static_cast<uint32_t>(storable(type, 688)));
    EXPECT_EQ(gguf.find_tensor("blk.1.attn_gate.weight")->type, 0U);

    const std::vector<float> rough = logits(out());
    double squares = 0;
    double errors = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      squares += double{exact[i]} * double{exact[i]};
      errors += std::pow(double{rough[i]} - double{exact[i]}, 2);
    }
    EXPECT_LE(std::sqrt(errors / squares), wanted.at(name).second);
  }
}

TEST_F(QuantizeModel, ThreadsDoNotMatter) {
  ASSERT_EQ(quantize(f16(), out(), "q4_k_m -t 1").status, 0);
  const std::string one = read_text(out());
  ASSERT_EQ(quantize(f16(), out(), "q4_k_m -t 3").status, 0);
  EXPECT_TRUE(read_text(out()) == one);
}

TEST_F(QuantizeModel, WarnsOfASecondLoss) {
  const fs::path coarse = directory->path() / "q4_0.gguf";
  ASSERT_EQ(quantize(f16(), coarse, "q4_0").status, 0);
  const Outcome again = quantize(coarse, out(), "q5_1");
  EXPECT_EQ(again.status, 0);
  EXPECT_NE(again.errors.find("warning"), std::string::npos) << again.errors;
  EXPECT_EQ(std::ranges::count(again.errors, '\n'), 1);
  EXPECT_EQ(quantize(coarse, out(), "f32").errors, "") << "nothing is lost";
  // What has the type already is copied.
  EXPECT_EQ(quantize(coarse, out(), "q4_0").errors, "");
  EXPECT_TRUE(read_text(coarse) == read_text(out()));
}

TEST_F(QuantizeModel, DryRunWritesNothing) {
  const size_t before = n_files(directory->path());
  EXPECT_EQ(quantize(f16(), directory->path() / "none.gguf", "q4_0 --dry-run").status, 0);
  EXPECT_EQ(n_files(directory->path()), before);
}

TEST_F(QuantizeModel, WrongInputIsOneClearLine) {
  const TemporaryDirectory folder;
  const fs::path in = folder.path() / "in.gguf";
  const fs::path out_file = folder.path() / "out.gguf";
  fs::copy(f16(), in);
  const auto refused = [&](const Outcome& outcome, const std::vector<std::string>& says) {
    EXPECT_EQ(outcome.status, 1) << outcome.errors;
    EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 1) << outcome.errors;
    for (const std::string& said : says) {
      EXPECT_NE(outcome.errors.find(said), std::string::npos) << said << ": " << outcome.errors;
    }
  };
  refused(quantize(in, out_file, "q3_k"), {"q3_k", "q4_k_m", "f32"});
  refused(quantize(in, out_file, "q4_k_m --pure"), {"--pure", "mix"});
  refused(quantize(in, in, "q8_0"), {"in.gguf", "input itself"});
  fs::create_symlink(in, folder.path() / "link.gguf");
  refused(quantize(in, folder.path() / "link.gguf", "q8_0"), {"link.gguf", "input itself"});
  refused(quantize(in, folder.path(), "q8_0"), {"not a regular file"});
  refused(quantize(in, "/dev/null", "q8_0"), {"/dev/null", "not a regular file"});
  refused(quantize(in, folder.path() / "none" / "out.gguf", "q8_0"), {"out.gguf", "No such file"});
  refused(quantize(folder.path() / "none.gguf", out_file, "q8_0"), {"none.gguf", "No such file"});
  EXPECT_EQ(n_files(folder.path()), 2U) << "a half file was left";

  // A disk that is full after 64 KiB.
  rlimit unlimited{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &unlimited), 0);
  const rlimit small{1 << 16, unlimited.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  const Outcome full = quantize(in, out_file, "q8_0");
  ::setrlimit(RLIMIT_FSIZE, &unlimited);
  std::signal(SIGXFSZ, old_handler);
  refused(full, {"out.gguf", "cannot write"});
  EXPECT_EQ(n_files(folder.path()), 2U) << "a half file was left";

  fs::resize_file(in, fs::file_size(in) - 1000);
  refused(quantize(in, out_file, "q8_0"), {"in.gguf", "output_norm", "cut off"});
  EXPECT_EQ(n_files(folder.path()), 2U);
}

/// Tensors of all experts keep three dimensions, in rows of whole blocks and in rows that are none.
TEST(Quantize, ExpertsHaveEveryType) {
  for (const uint32_t ffn_size : {256U, 48U}) {
    GgufImage image = family_model(
        "qwen3moe", 1,
        [&](GgufImage& g) {
          g.set("qwen3moe.embedding_length", uint32_t{256});
          g.set("qwen3moe.expert_count", uint32_t{5});
          // All of them: a choice of some may go either way by a rounding.
          g.set("qwen3moe.expert_used_count", uint32_t{5});
          g.set("qwen3moe.expert_feed_forward_length", ffn_size);
        },
        [](Config&) {});
    const TemporaryDirectory directory;
    const fs::path in = directory.write("in.gguf", image.bytes());
    const fs::path out = directory.path() / "out.gguf";
    const std::vector<Token> tokens = {1, 5, 3, 2, 9, 4, 4, 7, 11, 6};
    const SessionOptions options = {.n_threads = 1, .cache_type = DType::f32};
    for (const auto& [name, type] : all_names) {
      SCOPED_TRACE(name + " with rows of " + std::to_string(ffn_size));
      const Outcome outcome = quantize(in, out, name);
      ASSERT_EQ(outcome.status, 0) << outcome.errors;
      const Gguf before = Gguf::open(in);
      const Gguf after = Gguf::open(out);
      for (const char* which : {"gate", "up", "down"}) {
        const std::string tensor_name = "blk.0.ffn_" + std::string(which) + "_exps.weight";
        const GgufTensor& a = *after.find_tensor(tensor_name);
        const GgufTensor& b = *before.find_tensor(tensor_name);
        EXPECT_EQ(a.n_dims, 3U);
        EXPECT_EQ(a.dims, b.dims);
        const bool is_down = std::string_view(which) == "down";
        const bool more = is_down && name.ends_with("_m");  // one layer is the last eighth
        const DType wanted = storable(more ? DType::q6_k : type, b.dims[0]);
        ASSERT_EQ(a.type, static_cast<uint32_t>(wanted)) << tensor_name;
        std::vector<float> row(b.dims[0]);
        std::vector<std::byte> encoded(row_bytes(wanted, row.size()));
        for (size_t r = 0; r < b.dims[1] * b.dims[2]; ++r) {
          decode_row(DType::f32, b.data.data() + r * row_bytes(DType::f32, row.size()), row);
          encode_row(wanted, row, encoded.data());
          ASSERT_TRUE(
              std::ranges::equal(encoded, a.data.subspan(r * encoded.size(), encoded.size())))
              << tensor_name << " row " << r;
        }
      }
      EXPECT_EQ(after.find_tensor("blk.0.ffn_gate_inp.weight")->type, 0U) << "the router";

      // What is computed is what the written numbers say, but for activations of eight bits.
      const fs::path exact = directory.path() / "exact.gguf";
      ASSERT_EQ(quantize(out, exact, "f32").status, 0);
      const auto expected = logits_in_chunks(Model::load(exact), options, tokens, tokens.size());
      const auto found = logits_in_chunks(Model::load(out), options, tokens, tokens.size());
      EXPECT_LT(worst_error(found, expected, expected.size() / tokens.size()),
                block_elements(type) > 1 ? 0.15 : 2e-5);
    }
  }
}

TEST(Quantize, RefusesWhatCannotBeStored) {
  struct Row {
    float value;
    const char* type;
    const char* says;
  };
  for (const Row& row : {Row{NAN, "f16", "finite"}, Row{-INFINITY, "bf16", "finite"},
                         Row{1e6f, "f16", "too large for f16"}}) {
    SCOPED_TRACE(std::string(row.type) + " " + std::to_string(row.value));
    GgufImage image = tiny_model();
    const TemporaryDirectory directory;
    auto& data = image.find_tensor("blk.1.ffn_up.weight")->data;
    data.replace(data.size() - 4, 4, raw(row.value));
    const fs::path in = directory.write("in.gguf", image.bytes());
    const Outcome outcome = quantize(in, directory.path() / "out.gguf", row.type);
    EXPECT_EQ(outcome.status, 1);
    EXPECT_NE(outcome.errors.find(row.says), std::string::npos) << outcome.errors;
    EXPECT_NE(outcome.errors.find("blk.1.ffn_up.weight"), std::string::npos) << outcome.errors;
    EXPECT_EQ(n_files(directory.path()), 1U);
  }
}

}  // namespace
}  // namespace vga::test
