/// tokenizer.json files become the arrays of a GGUF file; what these cannot say is refused by name.
/// check_tokenizer.py compares ids with the tokenizers package.

#include <cstdio>
#include <functional>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "added_tokens.h"
#include "byte_spelling.h"
#include "gguf_image.h"
#include "tokenizer_json.h"
#include "vga/error.h"
#include "vga/tokenizer.h"

namespace vga::test {
namespace {

using nlohmann::json;
using Tokens = std::vector<Token>;

TokenizerJson parse_tokenizer(const json& file) {
  const std::string text = file.dump();
  return parse_tokenizer_json(std::as_bytes(std::span(text)), "tokenizer.json");
}

Tokenizer load(const TokenizerJson& parsed) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "v.gguf";
  GgufWriter writer;
  write_tokenizer(parsed, writer);
  OutputFile out(path);
  writer.begin(out);
  out.commit();
  return Tokenizer::from_gguf(Gguf::open(path));
}

json added(int id, const std::string& text, bool special) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

const std::string qwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// As Qwen's: all bytes and "he".
json byte_level() {
  json file = json::parse(R"({
    "added_tokens": [], "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": false},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
              "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
              "vocab": {}, "merges": [["h", "e"]]}})");
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = qwen2;
  for (int byte = 0; byte < 256; ++byte) {
    file["model"]["vocab"][spell(std::string(1, static_cast<char>(byte)))] = byte;
  }
  file["model"]["vocab"]["he"] = 256;
  file["added_tokens"] = {added(257, "<|im_end|>", true), added(259, "<tool>", false)};
  return file;
}

/// As Gemma's: no prefix, bytes for what is not there.
json sentencepiece_like() {
  json file = json::parse(R"({
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    "pre_tokenizer": {"type": "Split", "pattern": {"String": " "},
                      "behavior": "MergedWithPrevious", "invert": false},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
              "byte_fallback": true, "vocab": {}, "merges": ["a b", "▁ ab", "▁a b"]}})");
  json& vocab = file["model"]["vocab"];
  for (const char* text : {"<bos>", "<unk>", "a", "b", "▁", "ab", "▁ab", "▁a"}) {
    vocab[text] = vocab.size();
  }
  file["model"]["merges"] = {"a b", "▁ a", "▁ ab", "▁a b"};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    vocab[name] = vocab.size();
  }
  file["added_tokens"] = {added(0, "<bos>", true), added(1, "<unk>", true)};
  file["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A"}}]})");
  return file;
}

json unigram() {
  return json::parse(R"({
    "added_tokens": [],
    "normalizer": null,
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                      "split": true},
    "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false,
              "vocab": [["<unk>", 0], ["▁", -2], ["a", -3], ["▁a", -2.5], ["aa", -3.5]]}})");
}

TEST(TokenizerJson, ByteLevel) {
  TokenizerJson parsed = parse_tokenizer(byte_level());
  EXPECT_EQ(parsed.pre, "qwen2");
  EXPECT_TRUE(parsed.nfc);
  ASSERT_EQ(parsed.pieces.size(), 260u);
  EXPECT_EQ(parsed.pieces[258].text, "[PAD258]");  // a gap
  EXPECT_EQ(parsed.pieces[258].type, PieceType::unused);
  pad(parsed, 320);
  EXPECT_EQ(parsed.pieces.size(), 320u);
  const Tokenizer tokenizer = load(parsed);
  EXPECT_EQ(tokenizer.encode("he<tool>h"), (Tokens{256, 259, 'h'}));
  EXPECT_TRUE(tokenizer.is_control(257));
  EXPECT_TRUE(tokenizer.is_end(257));
  EXPECT_EQ(tokenizer.unused().size(), 61u);
  EXPECT_EQ(tokenizer.encode("e\u0301"), tokenizer.encode("\u00e9"));
}

TEST(TokenizerJson, PreTokenizersByTheirExpressions) {
  const auto pre = [](const json& cuts, bool ignore_merges = false) {
    json file = byte_level();
    file["pre_tokenizer"] = cuts;
    file["model"]["ignore_merges"] = ignore_merges;
    return parse_tokenizer(file).pre;
  };
  const json gpt2 = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const auto sequence = [](const json& first, const json& second) {
    return json{{"type", "Sequence"}, {"pretokenizers", {first, second}}};
  };
  const auto split = [](const std::string& regex) {
    return json{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
  };
  EXPECT_EQ(pre(gpt2), "gpt-2");
  EXPECT_EQ(pre(sequence({{"type", "Digits"}, {"individual_digits", true}}, gpt2)), "smollm");
  std::string llama3 = qwen2;
  llama3.replace(llama3.find(R"(|\p{N}|)"), 7, R"(|\p{N}{1,3}|)");
  EXPECT_EQ(pre(sequence(split(llama3), bytes), true), "llama-bpe");
  EXPECT_NE(pre(sequence(split(llama3), bytes), false), "llama-bpe");
  EXPECT_EQ(pre(sequence(split(qwen2), bytes)), "qwen2");
  EXPECT_EQ(
      pre(sequence(split(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N})"
                         R"(| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"),
                   bytes)),
      "qwen35");
  // Digits in threes from the right, and characters instead of their numbers.
  json trinity = {
      split(R"(\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N})))"),
      split("[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f"
            "\u2f00-\u2fdf\u0e00-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f"
            "\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"),
      split(R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?)"
            R"([\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"),
      bytes};
  EXPECT_EQ(pre({{"type", "Sequence"}, {"pretokenizers", trinity}}), "afmoe");
  trinity[1] = split(R"([\u4E00-\u9FFF\u3400-\u4DBF\uF900-\uFAFF\u3040-\u309F\u30A0-\u30FF)"
                     R"(\uFF65-\uFF9F\u2F00-\u2FDF\u0E00-\u0E7F\u0E80-\u0EFF\u1780-\u17FF)"
                     R"(\u1000-\u109F\x{AA60}-\x{AA7F}\uA9E0-\uA9FF\uAC00-\uD7AF\u1100-\u11FF]+)");
  EXPECT_EQ(pre({{"type", "Sequence"}, {"pretokenizers", trinity}}), "afmoe");
  for (const char* broken :
       {R"(\x{4E00)", R"(\x{})", R"(\u4E)", R"(\uD800)", R"(\x{110000})", R"(\)"}) {
    EXPECT_THROW(pre(sequence(split(broken), bytes)), Error) << broken;
  }
}

TEST(TokenizerJson, SentencePieceLike) {
  const TokenizerJson parsed = parse_tokenizer(sentencepiece_like());
  EXPECT_EQ(parsed.bos, 0);
  EXPECT_FALSE(parsed.eos);
  const Tokenizer tokenizer = load(parsed);
  EXPECT_EQ(tokenizer.encode("ab ab"), (Tokens{5, 6}));
  EXPECT_EQ(tokenizer.encode("\n"), (Tokens{8 + '\n'}));
  EXPECT_EQ(tokenizer.decode(Tokens{6, 5}), " abab");
}

TEST(TokenizerJson, Prefixes) {
  const auto ids = [](const json& file, std::string_view text) {
    return load(parse_tokenizer(file)).encode(text);
  };
  json file = sentencepiece_like();
  file["added_tokens"].push_back(added(264, "<x>", false));
  EXPECT_EQ(ids(file, "a<x>a"), (Tokens{2, 264, 2}));
  file["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers", {{{"type", "Prepend"}, {"prepend", "▁"}}, file["normalizer"]}}};
  EXPECT_EQ(ids(file, "a<x>a"), (Tokens{7, 264, 7}));
  EXPECT_EQ(ids(file, " a"), (Tokens{4, 7}));
  file["normalizer"] = nullptr;
  const auto metaspace = [](const char* scheme) {
    return json{
        {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", false}};
  };
  file["pre_tokenizer"] = metaspace("always");
  EXPECT_EQ(ids(file, "a<x>a"), (Tokens{7, 264, 7}));
  EXPECT_EQ(ids(file, " a"), (Tokens{7}));
  file["pre_tokenizer"] = metaspace("first");
  EXPECT_EQ(ids(file, "a<x>a"), (Tokens{7, 264, 2}));
  file["pre_tokenizer"] = metaspace("never");
  EXPECT_EQ(ids(file, "a<x>a"), (Tokens{2, 264, 2}));
}

TEST(TokenizerJson, Unigram) {
  const Tokenizer tokenizer = load(parse_tokenizer(unigram()));
  EXPECT_EQ(tokenizer.encode("aaa"), (Tokens{3, 4}));
  EXPECT_EQ(tokenizer.encode(" a"), (Tokens{3}));
}

struct Refusal {
  const char* name;
  json (*good)();
  std::function<void(json&)> spoil;
  std::vector<const char*> says;
};

TEST(TokenizerJson, RefusesByName) {
  const std::vector<Refusal> table = {
      {"kind",
       byte_level,
       [](json& f) { f["model"]["type"] = "WordPiece"; },
       {"model.type", "WordPiece", "Unigram"}},
      {"no model", byte_level, [](json& f) { f.erase("model"); }, {"model", "missing"}},
      {"normalizer",
       byte_level,
       [](json& f) { f["normalizer"]["type"] = "NFKC"; },
       {"normalizer", "NFKC"}},
      {"expression",
       byte_level,
       [](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "x+"; },
       {"pre_tokenizer", "x+", "qwen2"}},
      {"prefix",
       byte_level,
       [](json& f) { f["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; },
       {"add_prefix_space"}},
      {"suffix",
       byte_level,
       [](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; },
       {"end_of_word_suffix", "</w>"}},
      {"dropout", byte_level, [](json& f) { f["model"]["dropout"] = 0.1; }, {"dropout"}},
      {"merge", byte_level, [](json& f) { f["model"]["merges"] = {"he"}; }, {"model.merges", "he"}},
      {"id", byte_level, [](json& f) { f["model"]["vocab"]["he"] = 1 << 30; }, {"model.vocab"}},
      {"a character without a token",
       byte_level,
       [](json& f) { f["model"]["vocab"].erase("~"); },
       {"model.vocab", "every ASCII character", "byte 126"}},
      {"two with an id",
       byte_level,
       [](json& f) { f["model"]["vocab"]["xx"] = 256; },
       {"model.vocab", "256", "xx", "he"}},
      {"two with a text",
       byte_level,
       [](json& f) { f["added_tokens"].push_back(added(300, "he", false)); },
       {"'he'", "twice"}},
      {"strips",
       byte_level,
       [](json& f) { f["added_tokens"][1]["lstrip"] = true; },
       {"<tool>", "lstrip"}},
      {"two before",
       sentencepiece_like,
       [](json& f) {
         json& single = f["post_processor"]["single"];
         single.insert(single.begin(), single[0]);
       },
       {"post_processor.single"}},
      {"post-processor",
       sentencepiece_like,
       [](json& f) { f["post_processor"]["type"] = "BertProcessing"; },
       {"BertProcessing"}},
      {"no spaces",
       sentencepiece_like,
       [](json& f) { f["normalizer"] = nullptr; },
       {"pre_tokenizer", "Split"}},
      {"a piece joined of others",
       sentencepiece_like,
       [](json& f) {
         f["model"]["merges"] = {"a b", "▁ ab", "▁ a"};
       },
       {"model.merges", "▁ab", "'▁a'", "'b'"}},
      {"merges apart",
       sentencepiece_like,
       [](json& f) {
         f["model"]["merges"] = {"a b", "▁ ab", "▁ a", "▁a b"};
       },
       {"model.merges", "▁ab", "follow"}},
      {"no unknown",
       sentencepiece_like,
       [](json& f) { f["model"].erase("unk_token"); },
       {"model", "unknown"}},
      {"score", unigram, [](json& f) { f["model"]["vocab"][1] = {"a"}; }, {"model.vocab", "score"}},
      {"unknown out of range",
       unigram,
       [](json& f) { f["model"]["unk_id"] = 99; },
       {"model.unk_id", "99"}},
      {"empty piece",
       unigram,
       [](json& f) { f["model"]["vocab"][1][0] = ""; },
       {"model.vocab", "empty"}},
      {"rules",
       unigram,
       [](json& f) {
         f["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "?"}};
       },
       {"precompiled_charsmap", "base64"}},
  };
  for (const Refusal& refusal : table) {
    SCOPED_TRACE(refusal.name);
    json file = refusal.good();
    EXPECT_NO_THROW(parse_tokenizer(file));
    refusal.spoil(file);
    try {
      parse_tokenizer(file);
      ADD_FAILURE() << "was taken";
    } catch (const Error& error) {
      const std::string_view message = error.what();
      EXPECT_TRUE(message.starts_with("tokenizer.json")) << message;
      for (const char* part : refusal.says) {
        EXPECT_NE(message.find(part), std::string_view::npos) << message;
      }
    }
  }
}

TEST(TokenizerFiles, OtherProgramsFormatsAreCalledThat) {
  const auto message = [](std::string_view bytes) -> std::string {
    try {
      refuse_foreign_tokenizer(bytes, "tokenizer.model");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message("IQ== 0\nIg== 1\n").find("tiktoken"), std::string::npos);
  std::string llama2c = raw<int32_t>(5);
  for (const char* text : {"<unk>", "a"}) {
    llama2c += raw(0.F) + raw(static_cast<int32_t>(std::string_view(text).size())) + text;
  }
  EXPECT_NE(message(llama2c).find("llama2.c"), std::string::npos);
  EXPECT_EQ(message("\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02"), "");
  EXPECT_EQ(message(byte_level().dump()), "");
  EXPECT_EQ(message(""), "");
}

TEST(TokenizerFiles, TokensThatOtherFilesAdd) {
  SentencePieceModel model;
  model.algorithm = SentencePieceModel::Algorithm::bpe;
  model.pieces = {{"<unk>", 0, PieceType::unknown}, {"a", 0, PieceType::normal}};
  AddedTokens tokens;
  read_added_tokens_decoder(json::parse(R"({"added_tokens_decoder": {
                              "1": {"content": "a"},
                              "2": {"content": "<s>", "special": true}}})"),
                            "tokenizer_config.json", tokens);
  read_added_tokens_json(json::parse(R"({"<s>": 2, "[TOOL]": 3})"), "added_tokens.json", tokens);
  EXPECT_THROW(add_tokens(model, tokens, 3, "folder"), Error);
  model.pieces.resize(2);
  add_tokens(model, tokens, 6, "folder");
  ASSERT_EQ(model.pieces.size(), 6u);
  EXPECT_EQ(model.pieces[2].type, PieceType::control);
  EXPECT_EQ(model.pieces[3].type, PieceType::user_defined);
  EXPECT_TRUE(model.is_added(3));
  EXPECT_EQ(model.pieces[4].text, "[PAD4]");
  EXPECT_EQ(model.pieces[5].type, PieceType::unused);
  EXPECT_THROW(read_added_tokens_json(json::parse(R"({"<x>": 2})"), "added_tokens.json", tokens),
               Error);
  EXPECT_THROW(read_added_tokens_decoder(json::parse(R"({"added_tokens_decoder": {"x": {}}})"),
                                         "tokenizer_config.json", tokens),
               Error);
}

}  // namespace
}  // namespace vga::test
