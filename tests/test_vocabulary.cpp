/// Vocabularies in GGUF files: defaults, what ends a text, added tokens, unused ones, bad arrays.

#include <algorithm>
#include <cstdio>
#include <random>
#include <set>

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include "base/text.h"
#include "gguf_image.h"
#include "tokenizer/nfc.h"
#include "tokenizer/sentencepiece_bpe.h"
#include "tokenizer/sentencepiece_model.h"
#include "vga/error.h"
#include "vga/tokenizer.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

using Special = Tokenizer::Special;
using Tokens = std::vector<Token>;

/// "<unk>", "<s>", "</s>" and letters, `n` tokens in all.
GgufImage vocabulary(size_t n) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::string types = raw<int32_t>(2) + raw<int32_t>(3) + raw<int32_t>(3);
  for (char c = 'a'; tokens.size() < n; ++c) {
    tokens.push_back(std::string(1, c));
    types += raw<int32_t>(1);
  }
  tokens.resize(n);
  GgufImage image;
  image.set("tokenizer.ggml.model", "llama");
  image.set_strings("tokenizer.ggml.tokens", tokens);
  image.set_array("tokenizer.ggml.scores", GgufType::f32, n, std::string(n * 4, '\0'));
  image.set_array("tokenizer.ggml.token_type", GgufType::i32, n, types.substr(0, n * 4));
  return image;
}

struct BadVocabulary {
  const char* name;
  size_t n_tokens;
  void (*change)(GgufImage& image);
  std::vector<const char*> says;
};

TEST(GgufVocabulary, DefaultsAreThoseOfLlamaCpp) {
  const Tokenizer tokenizer = tokenizer_of(vocabulary(8));
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_TRUE(tokenizer.adds_bos());
  // "▁" is not in the vocabulary, so the prefix is an unknown piece in front of the letters.
  EXPECT_EQ(tokenizer.encode("ab"), (std::vector<Token>{0, 3, 4}));
}

TEST(GgufVocabulary, TemplateMarkersCannotBeForged) {
  GgufImage image = vocabulary(6);
  image.set_strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a", "<|im_end|>", "<tool>"});
  image.set_array("tokenizer.ggml.token_type", GgufType::i32, 6,
                  raw<int32_t>(2) + raw<int32_t>(3) + raw<int32_t>(3) + raw<int32_t>(1) +
                      raw<int32_t>(4) + raw<int32_t>(4));
  image.set("tokenizer.ggml.add_space_prefix", GgufType::boolean, std::string(1, '\0'));
  image.set("tokenizer.ggml.eot_token_id", 5u);
  const Tokenizer tokenizer = tokenizer_of(image);
  EXPECT_TRUE(tokenizer.is_control(4));
  EXPECT_TRUE(tokenizer.is_end(4));
  EXPECT_TRUE(tokenizer.is_end(5));
  EXPECT_EQ(tokenizer.encode("a<tool>"), (std::vector<Token>{3, 5}));
  EXPECT_EQ(tokenizer.encode("<|im_end|>"), (std::vector<Token>{0}));
  EXPECT_EQ(tokenizer.encode("a<|im_end|>", Special::parse), (std::vector<Token>{3, 4}));
}

TEST(GgufVocabulary, ManyUnknownPiecesAreFilling) {
  // <unk> a control token, what only fills up unknown: as converters once wrote it.
  GgufImage image = vocabulary(6);
  image.set_strings("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a", "[PAD4]", "[PAD5]"});
  image.set_array("tokenizer.ggml.token_type", GgufType::i32, 6,
                  raw<int32_t>(3) + raw<int32_t>(3) + raw<int32_t>(3) + raw<int32_t>(1) +
                      raw<int32_t>(2) + raw<int32_t>(2));
  EXPECT_EQ(tokenizer_of(image).encode("ab"), (std::vector<Token>{0, 3, 0}));
}

TEST(GgufVocabulary, WhatIsNotUsedMayBeWrong) {
  GgufImage image = vocabulary(8);
  image.set("tokenizer.ggml.padding_token_id", 8u);  // as in many fine-tuned models
  EXPECT_EQ(tokenizer_of(image).vocab_size(), 8u);
}

TEST(GgufVocabulary, RefusesBadArrays) {
  const std::vector<BadVocabulary> table = {
      {"no tokens",
       8,
       [](GgufImage& g) { g.set_strings("tokenizer.ggml.tokens", {}); },
       {"tokenizer.ggml.tokens", "found 0"}},
      {"no token array",
       8,
       [](GgufImage& g) { g.remove("tokenizer.ggml.tokens"); },
       {"tokenizer.ggml.tokens", "missing"}},
      {"no scores",
       8,
       [](GgufImage& g) { g.remove("tokenizer.ggml.scores"); },
       {"tokenizer.ggml.scores", "missing"}},
      {"scores too short",
       8,
       [](GgufImage& g) {
         g.set_array("tokenizer.ggml.scores", GgufType::f32, 7, std::string(28, '\0'));
       },
       {"tokenizer.ggml.scores", "8", "7"}},
      {"types too short",
       8,
       [](GgufImage& g) { g.set_array("tokenizer.ggml.token_type", GgufType::i32, 1, raw(2)); },
       {"tokenizer.ggml.token_type", "8", "1"}},
      {"type 99",
       4,
       [](GgufImage& g) {
         g.set_array("tokenizer.ggml.token_type", GgufType::i32, 4,
                     raw(2) + raw(3) + raw(3) + raw(99));
       },
       {"tokenizer.ggml.token_type", "99"}},
      {"bos out of range",
       8,
       [](GgufImage& g) { g.set("tokenizer.ggml.bos_token_id", 8u); },
       {"tokenizer.ggml.bos_token_id", "8"}},
      {"eos of 2^32-1",
       8,
       [](GgufImage& g) { g.set("tokenizer.ggml.eos_token_id", ~0u); },
       {"tokenizer.ggml.eos_token_id", "4294967295"}},
      {"unk out of range",
       8,
       [](GgufImage& g) { g.set("tokenizer.ggml.unknown_token_id", 8u); },
       {"tokenizer.ggml.unknown_token_id"}},
      {"eot out of range",
       8,
       [](GgufImage& g) { g.set("tokenizer.ggml.eot_token_id", 8u); },
       {"tokenizer.ggml.eot_token_id"}},
      {"default bos out of range",
       1,
       [](GgufImage&) {},
       {"tokenizer.ggml.bos_token_id", "default", "found 1"}},
      {"default eos out of range",
       2,
       [](GgufImage&) {},
       {"tokenizer.ggml.eos_token_id", "default", "found 2"}},
      {"default unk out of range",
       2,
       [](GgufImage& g) { g.set("tokenizer.ggml.model", "t5"); },
       {"tokenizer.ggml.unknown_token_id", "default", "found 2"}},
      {"bert",
       8,
       [](GgufImage& g) { g.set("tokenizer.ggml.model", "bert"); },
       {"tokenizer.ggml.model", "bert", "llama"}},
      {"charsmap",
       8,
       [](GgufImage& g) {
         g.set_array("tokenizer.ggml.precompiled_charsmap", GgufType::u8, 6, "\x04\1\1\1xx");
       },
       {"charsmap"}},
      {"an end out of range",
       8,
       [](GgufImage& g) {
         g.set_array("tokenizer.ggml.eos_token_ids", GgufType::i32, 2, raw(2) + raw(8));
       },
       {"tokenizer.ggml.eos_token_ids", "8"}},
      {"a negative end",
       8,
       [](GgufImage& g) { g.set_array("tokenizer.ggml.eos_token_ids", GgufType::i32, 1, raw(-1)); },
       {"tokenizer.ggml.eos_token_ids"}},
      {"an unknown place of the prefix",
       8,
       [](GgufImage& g) { g.set("tokenizer.ggml.space_prefix", "line"); },
       {"tokenizer.ggml.space_prefix", "line", "stretch"}},
      {"stored model that is broken",
       8,
       [](GgufImage& g) { g.set_array("tokenizer.sentencepiece.model", GgufType::u8, 1, "x"); },
       {"tokenizer.sentencepiece.model"}},
  };
  for (const auto& [name, n, change, says] : table) {
    SCOPED_TRACE(name);
    GgufImage image = vocabulary(n);
    change(image);
    try {
      tokenizer_of(image);
      ADD_FAILURE() << "was taken";
    } catch (const Error& error) {
      const std::string_view message = error.what();
      EXPECT_NE(message.find("v.gguf"), std::string_view::npos) << message;
      for (const char* part : says) {
        EXPECT_NE(message.find(part), std::string_view::npos) << message;
      }
    }
  }
}

// ---- what the files of others have

constexpr int32_t normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5;

void set_types(GgufImage& image, const std::vector<int32_t>& types) {
  std::string payload;
  for (const int32_t type : types) payload += raw(type);
  image.set_array("tokenizer.ggml.token_type", GgufType::i32, types.size(), payload);
}

void set_tokens(GgufImage& image, const std::vector<std::string>& tokens,
                const std::vector<int32_t>& types) {
  image.set_strings("tokenizer.ggml.tokens", tokens);
  image.set_array("tokenizer.ggml.scores", GgufType::f32, tokens.size(),
                  std::string(tokens.size() * 4, '\0'));
  set_types(image, types);
}

TEST(GgufVocabulary, TypesMayBeAbsent) {
  GgufImage image = vocabulary(8);
  image.remove("tokenizer.ggml.token_type");
  const Tokenizer tokenizer = tokenizer_of(image);
  EXPECT_EQ(tokenizer.encode("ab"), (Tokens{0, 3, 4}));
  EXPECT_FALSE(tokenizer.is_control(1));
  EXPECT_TRUE(tokenizer.is_end(2));  // eos by default
}

TEST(GgufVocabulary, EndsAreAllThatTheFileNames) {
  GgufImage image = vocabulary(12);
  image.set("tokenizer.ggml.eos_token_id", 3u);
  image.set("tokenizer.ggml.eot_token_id", 4u);
  image.set("tokenizer.ggml.eom_token_id", 5u);
  image.set_array("tokenizer.ggml.eos_token_ids", GgufType::i32, 3, raw(3) + raw(7) + raw(9));
  const Tokenizer tokenizer = tokenizer_of(image);
  EXPECT_EQ(tokenizer.eos(), 3);
  Tokens ends;
  for (Token token = 0; token < 12; ++token) {
    if (tokenizer.is_end(token)) ends.push_back(token);
  }
  EXPECT_EQ(ends, (Tokens{2, 3, 4, 5, 7, 9}));  // 2 is "</s>", a control token
}

// "</s>" is an HTML tag in Gemma's vocabulary (user-defined) and in Qwen's (normal).
TEST(GgufVocabulary, EndsByTheirNames) {
  const std::vector<std::string> always = {
      "<|eot_id|>",    "<|im_end|>", "<|end|>",    "<|return|>",    "<|call|>",
      "<end_of_turn>", "<turn|>",    "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>"};
  const std::vector<std::string> if_control = {"</s>",  "<eos>", "<EOT>",
                                               "[EOT]", "[EOS]", "<end_of_utterance>"};
  for (const int32_t type : {normal, control, user_defined}) {
    std::vector<std::string> tokens = {"<unk>", "a", "<b>"};
    std::vector<int32_t> types = {unknown, normal, control};
    for (const auto* names : {&always, &if_control}) {
      tokens.insert(tokens.end(), names->begin(), names->end());
      types.resize(tokens.size(), type);
    }
    GgufImage image = vocabulary(3);
    set_tokens(image, tokens, types);
    image.set("tokenizer.ggml.eos_token_id", 1u);
    const Tokenizer tokenizer = tokenizer_of(image);
    for (const std::string& name : always) {
      EXPECT_TRUE(tokenizer.is_end(*tokenizer.find(name))) << name << ", type " << type;
    }
    for (const std::string& name : if_control) {
      EXPECT_EQ(tokenizer.is_end(*tokenizer.find(name)), type == control) << name;
    }
    EXPECT_FALSE(tokenizer.is_end(2));
  }
}

/// Llama 2's vocabulary with what a fine-tuned model adds to it.
GgufImage llama2_with_added_tokens(const Gguf& gguf) {
  const auto their_tokens = gguf.strings("tokenizer.ggml.tokens").value();
  const auto their_types = gguf.integers("tokenizer.ggml.token_type").value();
  const auto their_scores = gguf.floats("tokenizer.ggml.scores").value();
  GgufImage image;
  std::vector<std::string> tokens;
  const auto old_tokens = gguf.strings("tokenizer.ggml.tokens").value();
  for (const std::string_view text : old_tokens) tokens.emplace_back(text);
  std::vector<int32_t> types;
  const std::vector<int64_t> old_types = gguf.integers("tokenizer.ggml.token_type").value();
  for (const int64_t type : old_types) {
    types.push_back(static_cast<int32_t>(type));
  }
  std::string scores;
  const std::vector<float> old_scores = gguf.floats("tokenizer.ggml.scores").value();
  for (const float score : old_scores) scores += raw(score);
  for (const char* text : {"<|a|>", "<|b|>", "[TOOL]", "hello world"}) {
    tokens.emplace_back(text);
    types.push_back(user_defined);
    scores += raw(-1000.0F);
  }
  image.set("tokenizer.ggml.model", "llama");
  image.set_strings("tokenizer.ggml.tokens", tokens);
  image.set_array("tokenizer.ggml.scores", GgufType::f32, tokens.size(), scores);
  set_types(image, types);
  return image;
}

TEST(GgufVocabulary, AddedTokensPartTheTextAsItIs) {
  const auto file = std::filesystem::path(VGA_SOURCE_DIR) /
                    "../shared/tokenizers/ggml-vocab/ggml-vocab-llama-spm.gguf";
  if (!exists(file)) GTEST_SKIP() << "no " << file;
  const Tokenizer tokenizer = tokenizer_of(llama2_with_added_tokens(Gguf::open(file)));
  // A space is put before text only, and before each stretch of it.
  EXPECT_EQ(tokenizer.encode("[TOOL]user"), (Tokens{32002, 1404}));
  EXPECT_EQ(tokenizer.encode("say hello world"), (Tokens{1827, 29871, 32003}));
  EXPECT_EQ(tokenizer.encode("say hello world[TOOL]"), (Tokens{1827, 29871, 32003, 32002}));
  EXPECT_EQ(tokenizer.decode(Tokens{32002, 1404}), "[TOOL] user");
}

// As vga-convert writes it: SentencePiece's own model, and in the arrays what stands behind it.
TEST(GgufVocabulary, AddedTokensStandBehindTheStoredModel) {
  SentencePieceModel model;
  model.algorithm = SentencePieceModel::Algorithm::bpe;
  model.add_dummy_prefix = false;
  model.pieces = {
      {"<unk>", 0, PieceType::unknown}, {"a", 0, PieceType::normal}, {"b", 0, PieceType::normal}};
  const std::string stored = serialize(model);
  GgufImage image = vocabulary(3);
  image.set_array("tokenizer.sentencepiece.model", GgufType::u8, stored.size(), stored);
  for (const char* end : {"bos", "eos"}) {
    image.set("tokenizer.ggml." + std::string(end) + "_token_id", 0u);
  }
  set_tokens(image, {"<unk>", "a", "b", "[TOOL]", "[PAD4]"},
             {unknown, normal, normal, user_defined, unused});
  const Tokenizer tokenizer = tokenizer_of(image);
  EXPECT_EQ(tokenizer.encode("a[TOOL]b"), (Tokens{1, 3, 2}));
  EXPECT_TRUE(std::ranges::equal(tokenizer.unused(), Tokens{4}));

  const auto message = [&](const std::vector<std::string>& tokens) -> std::string {
    set_tokens(image, tokens, std::vector<int32_t>(tokens.size(), normal));
    try {
      tokenizer_of(image);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message({"<unk>", "a", "c"}).find("is 'c' in key 'tokenizer.ggml.tokens'"),
            std::string::npos);
  EXPECT_NE(message({"<unk>", "a"}).find("each of the 2 tokens, found 3"), std::string::npos);
}

TEST(GgufVocabulary, WhereThePrefixIsPut) {
  GgufImage image = vocabulary(3);
  set_tokens(image, {"<unk>", "<s>", "</s>", "a", "\u2581", "\u2581a", "<x>"},
             {unknown, control, control, normal, normal, normal, user_defined});
  const auto ids = [&](std::string_view place, std::string_view text) {
    image.set("tokenizer.ggml.space_prefix", place);
    return tokenizer_of(image).encode(text);
  };
  EXPECT_EQ(ids("stretch", "a<x>a"), (Tokens{5, 6, 5}));
  EXPECT_EQ(ids("stretch", " a<x> a"), (Tokens{4, 5, 6, 4, 5}));
  EXPECT_EQ(ids("word", "a<x>a"), (Tokens{5, 6, 5}));
  EXPECT_EQ(ids("word", " a<x> a"), (Tokens{5, 6, 5}));
  EXPECT_EQ(ids("text", "a<x>a"), (Tokens{5, 6, 3}));
  EXPECT_EQ(ids("text", " a<x> a"), (Tokens{5, 6, 5}));
  EXPECT_EQ(ids("text", "<x>a"), (Tokens{6, 3}));
}

TEST(GgufVocabulary, UnusedTokensAreNeverChosen) {
  constexpr size_t vocab = 32;
  GgufImage image = tiny_model(vocab);
  std::vector<int32_t> types(vocab, normal);
  types[0] = unknown;
  for (size_t i = 3; i < vocab; ++i) {
    if (i % 4 != 0) types[i] = unused;
  }
  set_types(image, types);
  const TemporaryDirectory directory;
  const Model model = Model::load(directory.write("model.gguf", image.bytes()));
  EXPECT_EQ(model.tokenizer().unused().size(), 22u);
  Session session(model, {.n_threads = 1});
  for (const SamplerOptions& options :
       {SamplerOptions{.temperature = 0}, SamplerOptions{.temperature = 5, .top_k = 3},
        SamplerOptions{.temperature = 5, .top_k = 40, .top_p = 1, .min_p = 0},
        SamplerOptions{.temperature = 5, .top_k = 0, .top_p = 1, .min_p = 0},
        SamplerOptions{.temperature = 0, .repeat_penalty = 2}}) {
    Sampler sampler(options);
    for (int i = 0; i < 100; ++i) {
      session.truncate(0);
      session.append(static_cast<Token>(i % vocab));
      const Token token = session.sample(sampler);
      EXPECT_NE(types[static_cast<size_t>(token)], unused) << token;
      if (options.temperature > 0 || options.repeat_penalty != 1) continue;
      // The likeliest of those that may be chosen.
      const auto logits = session.logits();
      for (size_t other = 0; other < vocab; ++other) {
        if (types[other] != unused) {
          EXPECT_LE(logits[other], logits[static_cast<size_t>(token)]);
        }
      }
    }
  }
}

// ---- SentencePiece's BPE without its library

/// Pieces over a small alphabet, so that there are many ways to join them; scores repeat.
SentencePieceModel random_model(std::mt19937& random) {
  const auto below = [&](size_t n) { return random() % n; };
  const std::vector<std::string> letters = {"a", "b", "\u00e9", "\u2581", "\u65e5"};
  SentencePieceModel model;
  model.algorithm = SentencePieceModel::Algorithm::bpe;
  model.add_dummy_prefix = below(2) == 0;
  model.remove_extra_whitespaces = false;
  model.byte_fallback = below(2) == 0;
  model.pieces.push_back({"<unk>", 0, PieceType::unknown});
  model.pieces.push_back({"<s>", 0, PieceType::control});
  std::set<std::string> texts;
  for (int i = 0; i < 60; ++i) {
    std::string text;
    for (size_t n = 1 + below(4); n > 0; --n) text += letters[below(letters.size())];
    if (!texts.insert(text).second) continue;
    const PieceType type = below(5) == 0 ? PieceType::unused : PieceType::normal;
    model.pieces.push_back({text, -static_cast<float>(below(30)), type});
  }
  for (int byte = 0; model.byte_fallback && byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    model.pieces.push_back({name, 0, PieceType::byte});
  }
  validate(model, "test");
  return model;
}

TEST(SentencePieceBpe, EqualsTheLibraryOnRandomModels) {
  std::mt19937 random(11);
  const std::vector<std::string> parts = {"a", "b", "\u00e9", " ",    "\u65e5", "\u2581",
                                          "a", "b", "c",      "\xFF", "aa",     "\u00e9b"};
  for (int i = 0; i < 60; ++i) {
    const SentencePieceModel model = random_model(random);
    ASSERT_TRUE(SentencePieceBpe::fits(model));
    const SentencePieceBpe ours(model);
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.LoadFromSerializedProto(serialize(model)).ok());
    for (int j = 0; j < 60; ++j) {
      std::string text;
      for (size_t n = random() % 40; n > 0; --n) text += parts[random() % parts.size()];
      Tokens found;
      ours.encode(text, model.add_dummy_prefix, found);
      ASSERT_EQ(found, library.EncodeAsIds(text)) << printable(text);
    }
  }
}

// ---- NFC

TEST(Nfc, ComposesAndOrders) {
  EXPECT_EQ(nfc("Cafe\u0301"), "Caf\u00e9");
  EXPECT_EQ(nfc("e\u0301\u0323"), "\u1eb9\u0301");
  EXPECT_EQ(nfc("\u1112\u1161\u11ab"), "\ud55c");
  EXPECT_EQ(nfc("\u212b"), "\u00c5");                // a sign that is only another spelling
  EXPECT_EQ(nfc("\ufb01 \u00bd"), "\ufb01 \u00bd");  // what NFKC would change
  EXPECT_EQ(nfc(std::string("a\0b", 3)), std::string("a\0b", 3));
  EXPECT_EQ(nfc(""), "");
  EXPECT_TRUE(is_surely_nfc("plain, \u00e9 and \u02ff"));
  EXPECT_FALSE(is_surely_nfc("e\u0301"));
}

// Sorting them all would take minutes.
TEST(Nfc, EndlessMarksTakeNoTime) {
  std::string text = "a";
  for (int i = 0; i < 200'000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
  EXPECT_EQ(nfc(text).size(), text.size());
}

}  // namespace
}  // namespace vga::test
