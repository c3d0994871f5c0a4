/// Checkpoints into GGUF: what must come out right, and bad input, one row each: what is wrong, and
/// what the one-line message must name.

#include <cmath>
#include <csignal>
#include <fstream>
#include <numeric>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "checkpoint.h"
#include "config_json.h"
#include "conversion.h"
#include "gguf/decode.h"
#include "gguf/encode.h"
#include "gguf_image.h"
#include "llama2c.h"
#include "names.h"
#include "pickle.h"
#include "safetensors.h"
#include "torch_state.h"
#include "vga/error.h"
#include "zip.h"

namespace vga::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path data_dir = fs::path(VGA_SOURCE_DIR) / "tests/data";

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

/// Runs `read`; the message of the Error it must throw.
template <class Read>
std::string message_of(Read&& read) {
  try {
    read();
  } catch (const Error& error) {
    std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  ADD_FAILURE() << "no Error";
  return {};
}

void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string safetensors(const std::string& header, const std::string& data = {}) {
  return raw<uint64_t>(header.size()) + header + data;
}
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
         offsets + "}";
}
std::string repeated(const std::string& text, size_t n) {
  std::string out;
  while (n-- > 0) out += text;
  return out;
}

struct Bad {
  const char* name;  // of the row
  std::string bytes;
  const char* says;  // stands in the message
};

template <class Parse>
void expect_refused(const std::vector<Bad>& table, Parse&& parse) {
  for (const Bad& bad : table) {
    SCOPED_TRACE(bad.name);
    const std::string message = message_of([&] { parse(bytes_of(bad.bytes), "bad.file"); });
    EXPECT_TRUE(message.starts_with("bad.file")) << message;
    EXPECT_NE(message.find(bad.says), std::string::npos) << message;
    EXPECT_LT(message.size(), 600u);
  }
}

TEST(ConvertSafetensors, RefusesBadFiles) {
  const std::string eight(8, '\0');
  const auto one = [&](const std::string& dtype, const std::string& shape,
                       const std::string& offsets) {
    return safetensors("{" + entry("t", dtype, shape, offsets) + "}", eight);
  };
  expect_refused(
      {
          {"Empty", "", "too small"},
          {"HeaderOver100MB", raw<uint64_t>(100'000'001) + "{}", "limit"},
          {"HeaderPastFile", raw<uint64_t>(50) + "{}", "claims a header of 50 bytes"},
          {"HugeHeader", raw<uint64_t>(~uint64_t{0}) + "{}", "limit"},
          {"NotAnObject", safetensors("[]"), "'{'"},
          {"NoHeader", raw<uint64_t>(0), "'{'"},
          {"BrokenJson", safetensors("{\"a\":"), "not JSON"},
          {"NotUtf8", safetensors("{\"\xff\":1}"), "not JSON"},
          {"NulInHeader", safetensors(std::string("{}\0{}", 5)), "NUL"},
          {"DeepNesting", safetensors("{\"a\":" + repeated("[", 100'000)), "nested deeper"},
          {"DuplicateKey",
           safetensors("{" + entry("t", "F32", "[1]", "[0,4]") + "," +
                           entry("t", "F32", "[1]", "[4,8]") + "}",
                       eight),
           "'t' stands twice"},
          {"DuplicateField", safetensors(R"({"t":{"dtype":"F32","dtype":"F16"}})"), "'dtype'"},
          {"Hole", one("F32", "[1]", "[4,8]"), "a hole"},
          {"Overlap",
           safetensors("{" + entry("a", "F32", "[2]", "[0,8]") + "," +
                           entry("b", "F32", "[1]", "[4,8]") + "}",
                       eight),
           "overlap"},
          {"WrongSize", one("F32", "[3]", "[0,8]"), "want 12 bytes, data_offsets span 8"},
          {"ShapeOverflows", one("F32", "[4294967296,4294967296]", "[0,8]"), "overflows"},
          {"SizeOverflows", one("F32", "[9223372036854775807]", "[0,8]"), "overflows"},
          {"UnknownDtype", one("F33", "[2]", "[0,8]"), "unknown dtype \"F33\""},
          {"NegativeOffset", one("F32", "[2]", "[-8,0]"), "data_offsets"},
          {"FloatOffset", one("F32", "[2]", "[0,8.0]"), "data_offsets"},
          {"OffsetBeyond64Bits", one("F32", "[2]", "[0,99999999999999999999]"), "data_offsets"},
          {"BackwardOffsets", one("F32", "[2]", "[8,0]"), "data_offsets"},
          {"ThreeOffsets", one("F32", "[2]", "[0,4,8]"), "data_offsets"},
          {"NegativeShape", one("F32", "[-2]", "[0,8]"), "shape"},
          {"UnknownField", safetensors(R"({"t":{"strides":[1]}})"), "unknown key 'strides'"},
          {"NoDtype", safetensors(R"({"t":{"shape":[1]}})"), "has no 'dtype'"},
          {"MetadataNumber", safetensors(R"({"__metadata__":{"a":1}})"), "__metadata__"},
          {"MetadataString", safetensors(R"({"__metadata__":"a"})"), "__metadata__"},
          {"CutOff", safetensors("{" + entry("t", "F32", "[4]", "[0,16]") + "}", eight),
           "8 bytes of its data are missing"},
          {"Trailing", safetensors("{}", eight), "8 bytes behind the last tensor"},
      },
      parse_safetensors);
}

TEST(ConvertSafetensors, ReadsWhatIsLegal) {
  const std::string file = safetensors(
      "{" + entry("long", "I64", "[1]", "[4,12]") + "," + entry("empty", "F32", "[0,3]", "[4,4]") +
          "," + entry("scalar", "F32", "[]", "[0,4]") + R"(,"__metadata__":{"format":"pt"}}  )",
      raw(2.5f) + std::string(8, '\0'));
  const SourceTensors tensors = parse_safetensors(bytes_of(file), "good");
  EXPECT_EQ(tensors.size(), 3u);
  EXPECT_FALSE(tensors.at("long").type);
  EXPECT_EQ(tensors.at("empty").shape, (std::vector<uint64_t>{0, 3}));
}

TEST(ConvertSafetensors, RefusesShardsElsewhere) {
  std::vector<Bad> table;
  for (const char* shard : {"../x", "/etc/passwd", "a/b", "a\\\\b", "..", "."}) {
    table.push_back(
        {shard, R"({"weight_map":{"t":")" + std::string(shard) + R"("}})", "plain file name"});
  }
  table.push_back({"Empty", R"({"weight_map":{}})", "weight_map"});
  table.push_back({"Number", R"({"weight_map":{"t":1}})", "'t'"});
  table.push_back({"Duplicate", R"({"weight_map":{"t":"a","t":"b"}})", "twice"});
  expect_refused(table, parse_safetensors_index);
}

/// A pickle, protocol 2.
std::string pickle(const std::string& body) {
  return "\x80\x02" + body + ".";
}

std::string text(const std::string& value) {
  return "X" + raw(static_cast<uint32_t>(value.size())) + value;
}
std::string integer(int32_t value) {
  return "J" + raw(value);
}

/// A state dict of one tensor "t" over storage "0".
std::string one_tensor(int32_t storage, int32_t offset, const std::string& shape,
                       const std::string& strides) {
  return pickle("}" + text("t") + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") +
                "ctorch\nFloatStorage\n" + text("0") + text("cpu") + integer(storage) + "tQ" +
                integer(offset) + shape + strides + "\x89" + "}tRs");
}
std::string sizes(std::initializer_list<int32_t> values) {
  std::string out = "(";
  for (const int32_t value : values) out += integer(value);
  return out + "t";
}

TEST(ConvertPickle, RefusesBadPickles) {
  const std::string nested = "\x80\x02" + repeated("(", 2'000'000);
  expect_refused(
      {
          {"Empty", "", "offset 0"},
          {"NoStop", "\x80\x02}", "bytes"},
          {"System", pickle("cos\nsystem\n" + text("touch /tmp/owned") + "\x85R"), "'os.system'"},
          {"Eval", pickle("cbuiltins\neval\n"), "'builtins.eval'"},
          {"StackGlobal", pickle(text("posix") + text("system") + "\x93"), "'posix.system'"},
          {"Inst", pickle("(ios\nsystem\n"), "INST"},
          {"NewObj", pickle(")\x81"), "NEWOBJ"},
          {"Ext", pickle("\x82\x01"), "EXT1"},
          {"UnknownInstruction", pickle("\xfe"), "254"},
          {"ViewPastStorage", one_tensor(5, 0, sizes({2, 3}), sizes({3, 1})), "reaches past the 5"},
          {"OffsetPastStorage", one_tensor(6, 1, sizes({2, 3}), sizes({3, 1})), "reaches past"},
          {"StrideOutOfRange", one_tensor(6, 0, sizes({2, 3}), sizes({2147483647, 1})),
           "reaches past"},
          {"NegativeStride", one_tensor(6, 5, sizes({2}), sizes({-1})),
           "strides of a tensor is -1"},
          {"NegativeOffset", one_tensor(6, -1, sizes({2}), sizes({1})), "offset of a tensor is -1"},
          {"NegativeStorage", one_tensor(-6, 0, sizes({2}), sizes({1})), "size of a storage is -6"},
          {"ShapeWithoutStrides", one_tensor(6, 0, sizes({2}), sizes({})), "more sizes"},
          {"ManyDimensions", one_tensor(6, 0, sizes({1, 1, 1, 1, 1, 1, 1, 1, 1}), sizes({1})),
           "dimensions"},
          {"SetItemOnList", pickle("]" + text("a") + "Ns"), "is a list"},
          {"AppendToDict", pickle("}Na"), "is a dict"},
          {"BuildOnTuple", pickle(")}b"), "is a tuple"},
          {"CallsDict", pickle("})R"), "what is called is a dict"},
          {"MemoNeverSet", pickle("h\x07"), "memo 7"},
          {"MarkBomb", nested, "objects"},
          {"StackEmpty", pickle("s"), "stack is empty"},
          {"LeftOnStack", pickle("NN"), "left on the stack"},
          {"TensorOnly", pickle("N"), "wanted a dict of tensors, found None"},
          {"NumberInState", pickle("}" + text("lr") + "K\x01s"), "'lr': wanted a tensor"},
          {"NumberAsKey", pickle("}K\x01K\x01s"), "wanted a tensor's name"},
          {"LongStringClaim", "\x80\x02X" + raw<uint32_t>(0xFFFFFFFF), "wants 4294967295 bytes"},
          {"Protocol1", "\x80\x01.", "protocol 1"},
      },
      parse_pickled_state);
}

/// A ZIP archive with fields that can be wrong.
struct ZipImage {
  struct File {
    std::string name;
    std::string data;
    uint16_t method = 0;
    uint16_t flags = 0;
    std::optional<uint32_t> size = {};    // instead of the right one
    std::optional<uint32_t> header = {};  // offset, instead of the right one
    std::string local_name = name;
  };
  std::vector<File> files;
  std::optional<uint16_t> n_entries = {};

  std::string bytes() const {
    std::string body;
    std::string directory;
    for (const File& f : files) {
      const auto at = static_cast<uint32_t>(body.size());
      const auto size = static_cast<uint32_t>(f.data.size());
      const auto name_size = static_cast<uint16_t>(f.name.size());
      body += "PK\x03\x04" + raw<uint16_t>(20) + raw(f.flags) + raw(f.method) + raw<uint64_t>(0) +
              raw(size) + raw(size) + raw(static_cast<uint16_t>(f.local_name.size())) +
              raw<uint16_t>(0) + f.local_name + f.data;
      directory += "PK\x01\x02" + raw<uint32_t>(20) + raw(f.flags) + raw(f.method) +
                   raw<uint64_t>(0) + raw(f.size.value_or(size)) + raw(f.size.value_or(size)) +
                   raw(name_size) + std::string(12, '\0') + raw(f.header.value_or(at)) + f.name;
    }
    const auto n = n_entries.value_or(static_cast<uint16_t>(files.size()));
    return body + directory + "PK\x05\x06" + raw<uint32_t>(0) + raw(n) + raw(n) +
           raw(static_cast<uint32_t>(directory.size())) + raw(static_cast<uint32_t>(body.size())) +
           raw<uint16_t>(0);
  }
};

std::string torch_file(const std::string& pickled, const std::string& storage) {
  return ZipImage{{{"m/data.pkl", pickled}, {"m/data/0", storage}}, {}}.bytes();
}

TEST(ConvertZip, RefusesBadArchives) {
  const auto file = [](ZipImage::File f) { return ZipImage{{std::move(f)}, {}}.bytes(); };
  std::string cut = file({"m/a", "data"});
  cut.resize(cut.size() - 5);
  expect_refused(
      {{"Empty", "", "too small"},
       {"CutOff", cut, "end record"},
       {"Traversal", file({"../../x", "a"}), "'../../x'"},
       {"Inside", file({"m/../x", "a"}), "safe"},
       {"Absolute", file({"/etc/x", "a"}), "safe"},
       {"Backslash", file({"m\\x", "a"}), "safe"},
       {"DeflateBomb", file({"m/a", "abc", 8}), "compressed"},
       {"Encrypted", file({"m/a", "abc", 0, 1}), "encrypted"},
       {"SizeLies", file({"m/a", "abc", 0, 0, 1'000'000'000}), "directory"},
       {"Zip64Missing", file({"m/a", "abc", 0, 0, 0xFFFFFFFF}), "directory"},
       {"HeaderLies", file({"m/a", "abc", 0, 0, {}, 0x7FFFFFFF}), "damaged"},
       {"NamesDiffer", file({"m/a", "abc", 0, 0, {}, {}, "m/b"}), "contradicts"},
       {"Twice", ZipImage{{{"m/a", "x"}, {"m/a", "y"}}, {}}.bytes(), "twice"},
       {"Overlap", ZipImage{{{"m/a", "x"}, {"m/a", "y", 0, 0, {}, 0}}, {}}.bytes(), "overlaps"},
       {"CountLies", ZipImage{{{"m/a", "x"}}, 60000}.bytes(), "more than fit"}},
      parse_zip);
}

TEST(ConvertTorch, RefusesBadFiles) {
  const std::string good = one_tensor(6, 0, sizes({2, 3}), sizes({3, 1}));
  std::string tar(512, '\0');
  tar.replace(257, 5, "ustar");
  expect_refused(
      {{"Legacy", std::string("\x80\x02\x8a\x0a", 4) + std::string(100, 'x'), "1.6"},
       {"Tar", tar, "tar archive"},
       {"Garbage", "garbage", "not a torch.save file"},
       {"NoPickle", ZipImage{{{"m/x", "x"}}, {}}.bytes(), "data.pkl"},
       {"StorageShort", torch_file(good, std::string(20, 'x')), "has 20 bytes, wanted 24"},
       {"StorageLong", torch_file(good, std::string(28, 'x')), "has 28 bytes, wanted 24"},
       {"StorageMissing", ZipImage{{{"m/data.pkl", good}}, {}}.bytes(), "'m/data/0' is not in"},
       {"BigEndian", ZipImage{{{"m/byteorder", "big"}, {"m/data.pkl", good}}, {}}.bytes(), "'big'"},
       {"Evil", torch_file(pickle("cos\nsystem\n" + text("false") + "\x85R"), ""), "os.system"}},
      parse_torch_state);
}

TEST(ConvertTorch, ReadsWhatPyTorchWrites) {
  size_t n_files = 0;
  for (const auto& file : fs::directory_iterator(data_dir / "peculiar")) {
    fs::path expected_at = file.path();
    if (file.path().extension() != ".pt" || !fs::exists(expected_at.replace_extension("json"))) {
      continue;
    }
    SCOPED_TRACE(file.path().filename());
    ++n_files;
    const MappedFile mapped(file.path());
    const SourceTensors tensors = parse_torch_state(mapped.bytes(), mapped.name());
    const json expected = json::parse(read_text(expected_at));
    EXPECT_EQ(tensors.size(), expected.size());
    for (const auto& [name, wanted] : expected.items()) {
      ASSERT_TRUE(tensors.contains(name)) << name;
      const SourceTensor& tensor = tensors.at(name);
      const auto values = wanted["values"].get<std::vector<float>>();
      EXPECT_EQ(tensor.shape, wanted["shape"].get<std::vector<uint64_t>>()) << name;
      if (!tensor.type || tensor.shape.empty() || tensor.shape.size() > 2) continue;
      std::vector<float> row(tensor.shape.back());
      for (size_t r = 0; !row.empty() && r * row.size() < values.size(); ++r) {
        tensor.read_row(r, row);
        EXPECT_TRUE(std::equal(row.begin(), row.end(), values.begin() + r * row.size())) << name;
      }
    }
  }
  EXPECT_GE(n_files, 5u);
}

TEST(ConvertTorch, EvilPickleIsRefused) {
  const MappedFile mapped(data_dir / "peculiar/evil.pt");
  const auto message = message_of([&] { parse_torch_state(mapped.bytes(), mapped.name()); });
  EXPECT_NE(message.find("nothing was run"), std::string::npos) << message;
}

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
    ASSERT_TRUE(parsed.config.rope_factors);
    EXPECT_EQ(parsed.config.rope_theta, 500000);
    ASSERT_EQ(parsed.rope_factors.size(), 32u);
    // Within 8192 positions pair 14 turns 4.19 times, 15 2.78, 16 1.84, 17 1.22, 18 0.81 times.
    for (size_t i = 0; i < 15; ++i) EXPECT_EQ(parsed.rope_factors[i], 1) << i;
    EXPECT_NEAR(parsed.rope_factors[15], 1.65133, 1e-5);
    EXPECT_NEAR(parsed.rope_factors[16], 3.29226, 1e-5);
    EXPECT_NEAR(parsed.rope_factors[17], 9.66673, 1e-5);
    for (size_t i = 18; i < 32; ++i) EXPECT_EQ(parsed.rope_factors[i], 32) << i;
  }
}

TEST(ConvertConfig, MistralIsALlama) {
  for (const json& window : {json(nullptr), json(0)}) {
    json config = good_config(true);
    config["model_type"] = "mistral";
    config["sliding_window"] = window;
    const std::string dump = config.dump();
    EXPECT_EQ(parse_config_json(bytes_of(dump), "config.json").config.architecture,
              Config::Architecture::llama);
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
  EXPECT_EQ(canonical_name("_orig_mod.module.h.3.x", renames), "model.layers.3.x");
  message_of([] { Rename("no equals sign"); });
  message_of([] { Rename("(=x"); });
  message_of([&] { canonical_name(std::string(100'000, 'a'), renames); });
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
