/// The containers that weights come in: what must be read, and bad files, one row each: what is
/// wrong, and what the one-line message must name.

#include <numeric>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint_image.h"
#include "pickle.h"
#include "safetensors.h"
#include "torch_state.h"
#include "zip.h"

namespace vga::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path data_dir = fs::path(VGA_SOURCE_DIR) / "tests/data";

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

/// A tensor over storage "0".
std::string tensor(int32_t storage, int32_t offset, const std::string& shape,
                   const std::string& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\nFloatStorage\n" +
         text("0") + text("cpu") + integer(storage) + "tQ" + integer(offset) + shape + strides +
         "\x89" + "}tR";
}
/// A state dict of one tensor "t".
std::string one_tensor(int32_t storage, int32_t offset, const std::string& shape,
                       const std::string& strides) {
  return pickle("}" + text("t") + tensor(storage, offset, shape, strides) + "s");
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
          {"NewObj", pickle("cos\nsystem\n)\x81"), "'os.system'"},
          {"NewObjOfDict", pickle("})\x81"), "class of a new object is a dict"},
          {"Method", pickle("c__builtin__\ngetattr\n"), "'__builtin__.getattr'"},
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
          {"NoTensors", pickle("}" + text("lr") + "K\x01s" + text("sd") + "}s"),
           "no tensors, nor a dict of them under model, state_dict, model_state_dict, module, net, "
           "ema; its keys: 'lr', 'sd'"},
          {"NumberAsKey", pickle("}K\x01K\x01s"), "its keys: 'an integer'"},
          {"NumberAsName", pickle("}K\x01" + tensor(6, 0, sizes({2, 3}), sizes({3, 1})) + "s"),
           "wanted a tensor's name"},
          {"Optimizer", pickle("}" + text("state") + "}s" + text("param_groups") + "]s"),
           "state of an optimizer, no weights"},
          {"LongStringClaim", "\x80\x02X" + raw<uint32_t>(0xFFFFFFFF), "wants 4294967295 bytes"},
          {"Protocol1", "\x80\x01.", "protocol 1"},
      },
      parse_pickled_state);
}

TEST(ConvertPickle, WeightsOfAContainerComeBeforeOtherTensors) {
  const std::string weight = tensor(6, 0, sizes({2, 3}), sizes({3, 1}));
  const std::string before = "}" + text("rng") + weight + "s";
  const std::string container = "}" + text("w") + weight + "s" + text("step") + "K\x01ss";
  for (const char* name : {"model", "state_dict", "model_state_dict", "module", "net", "ema"}) {
    const std::string file = pickle(std::string(before).append(text(name)).append(container));
    const auto tensors = parse_pickled_state(bytes_of(file), "good");
    ASSERT_EQ(tensors.size(), 1u) << name;
    EXPECT_EQ(tensors[0].name, "w");
  }
}

TEST(ConvertPickle, WhatIsNotBuiltMayNotBeCalledAWeight) {
  const std::string set = "c__builtin__\nset\n]\x85R";
  const std::string file = pickle("}" + text("w") + set + "s");
  const auto message = message_of([&] { parse_pickled_state(bytes_of(file), "bad.file"); });
  EXPECT_NE(message.find("its keys: 'w'"), std::string::npos) << message;
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

}  // namespace
}  // namespace vga::test
