/// Byte-level BPE: words as the Hugging Face tokenizers cut them, merging against the rule applied
/// step by step, text there and back, bad vocabularies; ids against llama.cpp's own test file.

#include <algorithm>
#include <array>
#include <iterator>
#include <random>

#include <gtest/gtest.h>

#include "base/text.h"
#include "byte_spelling.h"
#include "ggml_vocab.h"
#include "gguf_image.h"
#include "run_program.h"
#include "tokenizer/nfc.h"
#include "tokenizer/pretokenizer.h"
#include "vga/error.h"
#include "vga/tokenizer.h"

namespace vga::test {
namespace {

using Special = Tokenizer::Special;
using Strings = std::vector<std::string>;

constexpr std::array<const char*, 9> pretokenizers = {
    "gpt-2", "llama-bpe", "smollm", "qwen2", "tekken", "qwen35", "gpt-4o", "deepseek-llm", "afmoe"};

/// A vocabulary of all bytes (0 to 255, in order) and merges made at random, then "hellohello",
/// which no merge makes, a user-defined "<note>" and "  ", a control token "<|im_end|>" that is
/// called user-defined, and "<bos>".
struct Vocabulary {
  Strings bytes;
  std::vector<std::pair<Token, Token>> merges;
  Strings tokens;
  std::vector<int32_t> types;
  Token hello, note, spaces, im_end, bos;

  Vocabulary() {
    for (int c = 0; c < 256; ++c) bytes.emplace_back(1, static_cast<char>(c));
    std::vector<Token> pool;
    for (const char c : std::string_view(" aehlost\n.1\xC3\xA9")) {
      pool.push_back(static_cast<unsigned char>(c));
    }
    std::mt19937 random(3);
    while (merges.size() < 400) {
      const Token left = pool[random() % pool.size()];
      const Token right = pool[random() % pool.size()];
      const std::string made = bytes[static_cast<size_t>(left)] + bytes[static_cast<size_t>(right)];
      if (made.size() > 6 || std::ranges::find(bytes, made) != bytes.end()) continue;
      merges.emplace_back(left, right);
      pool.push_back(static_cast<Token>(bytes.size()));
      bytes.push_back(made);
    }
    for (const std::string& text : bytes) tokens.push_back(spell(text));
    types.assign(tokens.size(), 1);
    hello = add(spell("hellohello"), 1);
    note = add("<note>", 4);
    spaces = add("  ", 4);
    im_end = add("<|im_end|>", 4);
    bos = add("<bos>", 3);
  }

  Token add(const std::string& token, int32_t type) {
    tokens.push_back(token);
    types.push_back(type);
    return static_cast<Token>(tokens.size() - 1);
  }

  GgufImage image(const char* pre) const {
    GgufImage image;
    Strings lines;
    for (const auto& [left, right] : merges) {
      lines.push_back(tokens[static_cast<size_t>(left)] + " " + tokens[static_cast<size_t>(right)]);
    }
    std::string payload;
    for (const int32_t type : types) payload += raw(type);
    image.set("tokenizer.ggml.model", "gpt2");
    image.set("tokenizer.ggml.pre", pre);
    image.set_strings("tokenizer.ggml.tokens", tokens);
    image.set_strings("tokenizer.ggml.merges", lines);
    image.set_array("tokenizer.ggml.token_type", GgufType::i32, types.size(), payload);
    image.set("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(bos));
    return image;
  }

  /// The rule itself: of all merges that apply, the first one, at its leftmost place.
  std::vector<Token> merged(std::string_view word) const {
    std::vector<Token> symbols;
    for (const char c : word) symbols.push_back(static_cast<unsigned char>(c));
    for (;;) {
      size_t best = merges.size();
      size_t place = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto found = std::ranges::find(merges, std::pair(symbols[i], symbols[i + 1]));
        const auto rank = static_cast<size_t>(found - merges.begin());
        if (rank < best) best = rank, place = i;
      }
      if (best == merges.size()) return symbols;
      symbols[place] = static_cast<Token>(256 + best);
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    }
  }
};

const Vocabulary& vocabulary() {
  static const Vocabulary vocabulary;
  return vocabulary;
}

Strings words(const char* pre, std::string_view text) {
  Strings words;
  Pretokenizer::find(pre).value().split(text, [&](std::string_view w) { words.emplace_back(w); });
  return words;
}

/// With U+FFFD for each byte that no character starts with.
std::string repaired(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto length = static_cast<size_t>(std::max(0, utf8_length(text)));
    out += length > 0 ? text.substr(0, length) : "\uFFFD";
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
}

/// Random bytes, code points, and the letters that merges are made of.
std::vector<std::string> random_texts(size_t n) {
  const Strings bits = {" ", "a",  "e", "h",      "l",      "o", "s",      "t",     "\n",  "hello",
                        ".", "'s", "1", "\u00E9", "\u0301", "_", "\u3000", "12345", "\r\n"};
  std::mt19937 random(5);
  const auto below = [&](size_t limit) { return random() % limit; };
  std::vector<std::string> texts = {"", " ", "\n", std::string(1, '\0'), "\xFF", "\xE2\x82"};
  while (texts.size() < n) {
    std::string text;
    for (size_t length = below(50); length > 0; --length) {
      if (texts.size() % 3 == 0) {
        text += static_cast<char>(below(256));
      } else if (texts.size() % 3 == 1) {
        const auto c = static_cast<uint32_t>(below(4) == 0 ? below(0x110000) : below(0x500));
        append_utf8(text, c >= 0xD800 && c < 0xE000 ? 0xFFFD : c);
      } else {
        text += bits[below(bits.size())];
      }
    }
    texts.push_back(std::move(text));
  }
  return texts;
}

TEST(Pretokenizer, CutsAsTheOriginalsDo) {
  // From the Hugging Face tokenizers.
  struct Row {
    const char* text;
    // Of the first five of `pretokenizers`, in order; an empty one is as the one before.
    std::array<Strings, 5> words;
  };
  const std::vector<Row> table = {
      {"I'm WE'LL don't 'S",
       {{{"I", "'m", " WE", "'", "LL", " don", "'t", " '", "S"},
         {"I", "'m", " WE", "'LL", " don", "'t", " '", "S"},
         {"I", "'m", " WE", "'", "LL", " don", "'t", " '", "S"},
         {"I", "'m", " WE", "'LL", " don", "'t", " '", "S"}}}},
      {"x  y\n\n  z \t",
       {{{"x", " ", " y", "\n\n ", " z", " \t"},
         {"x", " ", " y", "\n\n", " ", " z", " \t"},
         {"x", " ", " y", "\n\n ", " z", " \t"},
         {"x", " ", " y", "\n\n", " ", " z", " \t"}}}},
      {"12345 a6\u00BD\u0663",
       {{{"12345", " a", "6\u00BD\u0663"},
         {"123", "45", " a", "6\u00BD\u0663"},
         {"1", "2", "3", "4", "5", " a", "6", "\u00BD", "\u0663"},
         {}}}},
      {"a_b == c!\r\n\r\n?",
       {{{"a", "_", "b", " ==", " c", "!", "\r\n\r", "\n", "?"},
         {"a", "_b", " ==", " c", "!\r\n\r\n", "?"},
         {"a", "_", "b", " ==", " c", "!", "\r\n\r", "\n", "?"},
         {"a", "_b", " ==", " c", "!\r\n\r\n", "?"}}}},
      {"\u65E5\u672C\u3002ok",
       {{{"\u65E5\u672C", "\u3002", "ok"},
         {"\u65E5\u672C", "\u3002ok"},
         {"\u65E5\u672C", "\u3002", "ok"},
         {"\u65E5\u672C", "\u3002ok"}}}},
      {"\u00E9 e\u0301 \u180E\u3000\u0085q",
       {{{"\u00E9", " e", "\u0301", " \u180E", "\u3000", "\u0085", "q"},
         {"\u00E9", " e", "\u0301", " \u180E", "\u3000", "\u0085q"},
         {"\u00E9", " e", "\u0301", " \u180E", "\u3000", "\u0085", "q"},
         {"\u00E9", " e", "\u0301", " \u180E", "\u3000", "\u0085q"},
         {"\u00E9", " e\u0301", " \u180E", "\u3000", "\u0085q"}}}},
      {"   1", {{{"  ", " 1"}, {"  ", " ", "1"}, {"   ", "1"}, {"  ", " ", "1"}}}},
      {"it'\u017F",
       {{{"it", "'", "\u017F"}, {"it", "'\u017F"}, {"it", "'", "\u017F"}, {"it", "'\u017F"}}}},
  };
  for (const Row& row : table) {
    Strings wanted;
    for (size_t i = 0; i < row.words.size(); ++i) {
      if (!row.words[i].empty()) wanted = row.words[i];
      EXPECT_EQ(words(pretokenizers[i], row.text), wanted) << pretokenizers[i] << ": " << row.text;
    }
  }
  EXPECT_EQ(words("tekken", "HelloWorld XMLHttp ABC/\n/1"),
            (Strings{"Hello", "World", " XMLHttp", " ABC", "/\n/", "1"}));
  EXPECT_EQ(words("qwen35", "ne\u0301 \u0301x 12"),
            (Strings{"ne\u0301", " \u0301x", " ", "1", "2"}));
  EXPECT_EQ(words("gpt-4o", "HelloWorld DON'T we'll 1234567"),
            (Strings{"Hello", "World", " DON'T", " we'll", " ", "123", "456", "7"}));
  EXPECT_EQ(words("deepseek-llm", "ne\u0301 1234 \u65E5\u672C\u3002ok!\r\n  if {\t"),
            (Strings{"ne", "\u0301 ", "1234", " ", "\u65E5\u672C", "\u3002", "ok", "!", "\r", "\n",
                     " ", " if", " {", "\t"}));
  EXPECT_EQ(
      words("afmoe", "1234567 12 123 \u0E44\u0E17\u0E22 don't"),
      (Strings{"1", "234", "567", " ", "12", " ", "123", " ", "\u0E44\u0E17\u0E22", " don", "'t"}));
  for (const auto& [alias, of] :
       std::vector<std::pair<const char*, const char*>>{{"falcon3", "llama-bpe"},
                                                        {"smaug-bpe", "llama-bpe"},
                                                        {"dbrx", "llama-bpe"},
                                                        {"olmo", "gpt-2"},
                                                        {"deepseek-r1-qwen", "qwen2"},
                                                        {"refact", "smollm"}}) {
    for (const Row& row : table) EXPECT_EQ(words(alias, row.text), words(of, row.text)) << alias;
  }
  EXPECT_FALSE(Pretokenizer::find("default"));
  EXPECT_FALSE(Pretokenizer::find(""));
}

TEST(Pretokenizer, WordsAreTheWholeText) {
  for (const char* pre : pretokenizers) {
    for (const std::string& text : random_texts(1500)) {
      std::string joined;
      for (const std::string& word : words(pre, repaired(text))) {
        ASSERT_FALSE(word.empty());
        joined += word;
      }
      ASSERT_EQ(joined, repaired(text));
    }
  }
}

/// Before it is cut.
std::string as_read(const char* pre, const std::string& text) {
  return Pretokenizer::find(pre)->normalizes() ? nfc(repaired(text)) : repaired(text);
}

TEST(ByteBpe, MergesByTheRule) {
  const auto texts = random_texts(1500);
  for (const char* pre : pretokenizers) {
    SCOPED_TRACE(pre);
    const Tokenizer tokenizer = tokenizer_of(vocabulary().image(pre));
    const bool whole_words = Pretokenizer::find(pre)->keeps_whole_words();
    for (const std::string& text : texts) {
      if (text.find("  ") != std::string::npos) continue;  // a token of its own, see below
      std::vector<Token> wanted;
      for (const std::string& word : words(pre, as_read(pre, text))) {
        const auto known = tokenizer.find(spell(word));
        if (whole_words && known) {
          wanted.push_back(*known);
        } else {
          std::ranges::copy(vocabulary().merged(word), std::back_inserter(wanted));
        }
      }
      ASSERT_EQ(tokenizer.encode(text), wanted) << printable(text);
    }
  }
}

TEST(ByteBpe, TextThereAndBack) {
  for (const char* pre : pretokenizers) {
    const Tokenizer tokenizer = tokenizer_of(vocabulary().image(pre));
    for (const std::string& text : random_texts(3000)) {
      ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), as_read(pre, text)) << printable(text);
    }
  }
}

TEST(ByteBpe, WordsOfAnyLength) {
  // Beyond what is merged in one go, and runs that make an expression step back.
  for (const char* pre : {"gpt-2", "qwen2"}) {
    const Tokenizer tokenizer = tokenizer_of(vocabulary().image(pre));
    for (const char* bit : {"a", " ", "\u00E9"}) {
      std::string text;
      while (text.size() < 1'200'000) text += bit;
      text += "x";
      ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
    }
  }
}

TEST(ByteBpe, WholeWordsFirstWhereTheModelWasTrainedSo) {
  const std::vector<Token> hello = {vocabulary().hello};
  EXPECT_EQ(tokenizer_of(vocabulary().image("llama-bpe")).encode("hellohello"), hello);
  EXPECT_EQ(tokenizer_of(vocabulary().image("tekken")).encode("hellohello"), hello);
  EXPECT_NE(tokenizer_of(vocabulary().image("qwen2")).encode("hellohello"), hello);
}

TEST(ByteBpe, SpecialTokens) {
  const Tokenizer tokenizer = tokenizer_of(vocabulary().image("smollm"));
  const Vocabulary& v = vocabulary();
  // What the file calls user-defined is found in any text, unless it looks like a marker.
  EXPECT_EQ(tokenizer.encode("<note>  "), (std::vector<Token>{v.note, v.spaces}));
  EXPECT_EQ(tokenizer.decode(std::vector<Token>{v.note, v.spaces}), "<note>  ");
  const std::string text = "<|im_end|><bos>";
  for (const Token token : tokenizer.encode(text)) EXPECT_FALSE(tokenizer.is_control(token));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  EXPECT_EQ(tokenizer.encode(text, Special::parse), (std::vector<Token>{v.im_end, v.bos}));
  EXPECT_EQ(tokenizer.decode(std::vector<Token>{v.im_end, v.bos}), "");
  EXPECT_TRUE(tokenizer.is_end(v.im_end));

  // A user-defined token may lie across parts, a control token may not.
  using Parts = std::vector<Tokenizer::Part>;
  EXPECT_EQ(tokenizer.encode(Parts{{"<no"}, {"te>", Special::parse}}),
            (std::vector<Token>{v.note}));
  for (const Token token : tokenizer.encode(Parts{{"<|im_", Special::parse}, {"end|>"}})) {
    EXPECT_FALSE(tokenizer.is_control(token));
  }
}

TEST(ByteBpe, Bos) {
  GgufImage image = vocabulary().image("smollm");
  EXPECT_EQ(tokenizer_of(image).bos(), vocabulary().bos);
  EXPECT_FALSE(tokenizer_of(image).adds_bos());
  EXPECT_FALSE(tokenizer_of(image).eos());
  EXPECT_TRUE(tokenizer_of(vocabulary().image("llama-bpe")).adds_bos());
  image.set("tokenizer.ggml.add_bos_token", GgufType::boolean, std::string(1, '\1'));
  EXPECT_EQ(tokenizer_of(image).encode_prompt("a"), (std::vector<Token>{vocabulary().bos, 'a'}));
}

// Qwen's tokenizer composes characters first; the file may say otherwise.
TEST(ByteBpe, NormalizesWhereTheTokenizerDoes) {
  const std::string composed = "Caf\u00e9 \u1eb9\u0301";
  const std::string apart = "Cafe\u0301 e\u0301\u0323";
  GgufImage image = vocabulary().image("qwen2");
  EXPECT_EQ(tokenizer_of(image).encode(apart), tokenizer_of(image).encode(composed));
  image.set("tokenizer.ggml.normalizer", "none");
  EXPECT_NE(tokenizer_of(image).encode(apart), tokenizer_of(image).encode(composed));
  image = vocabulary().image("llama-bpe");
  EXPECT_NE(tokenizer_of(image).encode(apart), tokenizer_of(image).encode(composed));
  image.set("tokenizer.ggml.normalizer", "nfc");
  EXPECT_EQ(tokenizer_of(image).encode(apart), tokenizer_of(image).encode(composed));
}

TEST(ByteBpe, ThePretokenizerMayBeGiven) {
  const auto ids = [](const GgufImage& image, std::string_view pre) {
    const TemporaryDirectory directory;
    return Tokenizer::from_gguf(Gguf::open(directory.write("v.gguf", image.bytes())), pre)
        .encode("hellohello 11111");
  };
  GgufImage image = vocabulary().image("gpt-2");
  const auto wanted = ids(vocabulary().image("llama-bpe"), "");
  EXPECT_NE(ids(image, ""), wanted);
  EXPECT_EQ(ids(image, "llama-bpe"), wanted);
  image.remove("tokenizer.ggml.pre");
  EXPECT_EQ(ids(image, "llama-bpe"), wanted);
  EXPECT_THROW(ids(image, ""), Error);
  EXPECT_THROW(ids(image, "nonesuch"), Error);
  image.set("tokenizer.ggml.model", "llama");
  EXPECT_THROW(ids(image, "llama-bpe"), Error);
}

TEST(ByteBpe, AProgramSaysThatItWasGivenThePretokenizer) {
  const TemporaryDirectory directory;
  const auto tokenize = [&](const GgufImage& image, const std::string& flags) {
    const std::string file = directory.write("v.gguf", image.bytes()).string();
    return run("vga-tokenize --ids -p 'hellohello 11111' -m '" + file + "'" + flags);
  };
  GgufImage image = vocabulary().image("llama-bpe");
  const std::string note = "note: text is cut into words as --pre llama-bpe";
  const Outcome named = tokenize(image, "");
  EXPECT_EQ(named.errors.find(note), std::string::npos) << named.errors;
  image.remove("tokenizer.ggml.pre");
  const Outcome given = tokenize(image, " --pre llama-bpe");
  EXPECT_EQ(given.status, 0) << given.errors;
  EXPECT_EQ(given.output, named.output);
  EXPECT_NE(given.errors.find(note), std::string::npos) << given.errors;
  const Outcome none = tokenize(image, "");
  EXPECT_EQ(none.status, 1);
  EXPECT_NE(none.errors.find("--pre NAME takes one for this run"), std::string::npos)
      << none.errors;
}

TEST(ByteBpe, LeavesOutBytesWithoutToken) {
  Vocabulary changed = vocabulary();
  changed.tokens[0xFF] = spell("never made");
  changed.tokens[0x04] = spell("neither");
  const Tokenizer tokenizer = tokenizer_of(changed.image("gpt-2"));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a\x04z")), "az");
}

TEST(ByteBpe, StreamsWholeCharacters) {
  const Tokenizer tokenizer = tokenizer_of(vocabulary().image("gpt-2"));
  std::mt19937 random(17);
  const auto n = static_cast<uint32_t>(tokenizer.vocab_size());
  for (int round = 0; round < 5000; ++round) {
    std::vector<Token> tokens(random() % 20);
    if (round % 2 == 0) {
      for (Token& token : tokens) token = static_cast<Token>(random() % n);
    } else {
      for (const char c : std::string_view("\xF0\x9F\xA6\x8A\xE2\x82\xAC\xC3")) {
        tokens.push_back(static_cast<unsigned char>(c));
        if (random() % 8 == 0) tokens.push_back(vocabulary().bos);
      }
    }
    StreamDecoder decoder(tokenizer);
    std::string text;
    for (const Token token : tokens) {
      const std::string piece = decoder.add(token);
      ASSERT_TRUE(is_utf8(piece));
      text += piece;
    }
    text += decoder.finish();
    ASSERT_TRUE(is_utf8(text));
    ASSERT_EQ(text, tokenizer.decode(tokens));
  }
  const std::vector<Token> fox = {0xF0, 0x9F, 0xA6, 0x8A};
  EXPECT_EQ(tokenizer.decode(fox), "\U0001F98A");
  EXPECT_EQ(StreamDecoder(tokenizer).add(' '), " ");
  EXPECT_THROW(tokenizer.decode(std::vector<Token>{static_cast<Token>(n)}), Error);
}

struct BadByteVocabulary {
  const char* name;
  void (*change)(Vocabulary& vocabulary, GgufImage& image);
  std::vector<std::string> says;
};

TEST(ByteBpe, RefusesBadVocabularies) {
  const std::vector<BadByteVocabulary> table = {
      {"no pre",
       [](auto&, auto& image) { image.remove("tokenizer.ggml.pre"); },
       {"tokenizer.ggml.pre", "missing"}},
      {"default pre",
       [](auto&, auto& image) { image.set("tokenizer.ggml.pre", "default"); },
       {"tokenizer.ggml.pre", "'default'", Pretokenizer::names()}},
      {"no merges",
       [](auto&, auto& image) { image.remove("tokenizer.ggml.merges"); },
       {"tokenizer.ggml.merges", "missing"}},
      {"too few types",
       [](auto&, auto& image) {
         image.set_array("tokenizer.ggml.token_type", GgufType::i32, 1, raw<int32_t>(1));
       },
       {"tokenizer.ggml.token_type", "661", "found 1"}},
      {"merge without space",
       [](auto&, auto& image) { image.set_strings("tokenizer.ggml.merges", {"ae"}); },
       {"tokenizer.ggml.merges", "merge 0 'ae'", "space"}},
      {"merge of one part",
       [](auto&, auto& image) { image.set_strings("tokenizer.ggml.merges", {"a "}); },
       {"tokenizer.ggml.merges", "merge 0 'a '", "space"}},
      {"merge of three",
       [](auto&, auto& image) { image.set_strings("tokenizer.ggml.merges", {"a b c"}); },
       {"tokenizer.ggml.merges", "merge 0 'a b c'"}},
      {"merge of unknown parts",
       [](auto&, auto& image) { image.set_strings("tokenizer.ggml.merges", {"qq a"}); },
       {"tokenizer.ggml.merges", "merge 0 'qq a'", "left part"}},
      {"merge that is no token",
       [](auto&, auto& image) { image.set_strings("tokenizer.ggml.merges", {"q q"}); },
       {"tokenizer.ggml.merges", "merge 0 'q q'", "makes a token"}},
      {"merge that makes a control token",
       [](auto& v, auto& image) {
         v.add("qq", 3);
         image = v.image("gpt-2");
         image.set_strings("tokenizer.ggml.merges", {"q q"});
       },
       {"tokenizer.ggml.merges", "merge 0 'q q'"}},
      {"merge that spells no bytes",
       [](auto&, auto& image) { image.set_strings("tokenizer.ggml.merges", {"\u4E00 a"}); },
       {"tokenizer.ggml.merges", "merge 0", "left part"}},
      {"merge there twice",
       [](auto& v, auto& image) {
         v.merges.push_back(v.merges[0]);
         image = v.image("gpt-2");
       },
       {"tokenizer.ggml.merges", "merge 400", "twice"}},
      {"token there twice",
       [](auto& v, auto& image) {
         v.add("a", 1);
         image = v.image("gpt-2");
       },
       {"tokenizer.ggml.tokens", "token 661 'a'", "twice"}},
      {"empty token",
       [](auto& v, auto& image) {
         v.add("", 1);
         image = v.image("gpt-2");
       },
       {"tokenizer.ggml.tokens", "token 661", "empty"}},
      {"token that is not UTF-8",
       [](auto& v, auto& image) {
         v.add("\xFF", 3);
         image = v.image("gpt-2");
       },
       {"tokenizer.ggml.tokens", "token 661", "UTF-8"}},
      {"long token",
       [](auto& v, auto& image) {
         v.add(std::string(5000, 'a'), 1);
         image = v.image("gpt-2");
       },
       {"tokenizer.ggml.tokens", "token 661", "5000 bytes"}},
      {"token that spells no bytes",
       [](auto& v, auto& image) {
         v.add("a b", 1);
         image = v.image("gpt-2");
       },
       {"tokenizer.ggml.tokens", "token 661 'a b'", "no byte"}},
      {"token of a byte type",
       [](auto& v, auto& image) {
         v.add("<0x00>", 6);
         image = v.image("gpt-2");
       },
       {"tokenizer.ggml.token_type", "token 661", "found 6"}},
      {"missing byte",
       [](auto& v, auto& image) {
         v.tokens['q'] = "qqq";
         image = v.image("gpt-2");
       },
       {"tokenizer.ggml.tokens", "byte 113"}},
      {"unknown normalizer",
       [](auto&, auto& image) { image.set("tokenizer.ggml.normalizer", "nfkd"); },
       {"tokenizer.ggml.normalizer", "nfkd", "nfc"}},
      {"bos out of range",
       [](auto&, auto& image) { image.set("tokenizer.ggml.bos_token_id", 661u); },
       {"tokenizer.ggml.bos_token_id", "661"}},
      {"eot out of range",
       [](auto&, auto& image) { image.set("tokenizer.ggml.eot_token_id", ~0u); },
       {"tokenizer.ggml.eot_token_id", "4294967295"}},
  };
  EXPECT_EQ(vocabulary().tokens.size(), 661u);
  for (const BadByteVocabulary& bad : table) {
    SCOPED_TRACE(bad.name);
    Vocabulary changed = vocabulary();
    GgufImage image = changed.image("gpt-2");
    bad.change(changed, image);
    try {
      tokenizer_of(image);
      ADD_FAILURE() << "was accepted";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("v.gguf"), std::string::npos) << message;
      for (const std::string& said : bad.says) {
        EXPECT_NE(message.find(said), std::string::npos) << "'" << said << "': " << message;
      }
    }
  }
}

TEST(ByteBpe, EqualsLlamaCppOnItsOwnVocabularyFile) {
  const auto file = std::filesystem::path(VGA_SOURCE_DIR) / ".." / "shared" / "tokenizers" /
                    "ggml-vocab" / "ggml-vocab-gpt-2.gguf";
  if (!exists(file)) GTEST_SKIP() << "no " << file;
  const Tokenizer tokenizer = Tokenizer::from_gguf(Gguf::open(file));
  EXPECT_EQ(tokenizer.vocab_size(), 50257u);
  EXPECT_EQ(tokenizer.eos(), 50256);
  const size_t n =
      for_each_ggml_vocab_text(file, [&](const std::string& text, const std::vector<Token>& ids) {
        EXPECT_EQ(tokenizer.encode(text), ids) << printable(text);
        EXPECT_EQ(tokenizer.decode(ids), text);
      });
  EXPECT_GT(n, 40u);
}

}  // namespace
}  // namespace vga::test
