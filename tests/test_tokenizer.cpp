/// Ids and text against libsentencepiece itself, loaded from the untouched bytes, on models that
/// the test trains.

#include <array>
#include <atomic>
#include <random>
#include <thread>

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include "base/text.h"
#include "ggml_vocab.h"
#include "gguf_image.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/vocabulary.h"
#include "vga/error.h"
#include "vga/tokenizer.h"

namespace vga::test {
namespace {

using sentencepiece::SentencePieceProcessor;
using Special = Tokenizer::Special;

/// The lines the test models are trained on.
class Corpus : public sentencepiece::SentenceIterator {
 public:
  bool done() const override { return next_ == lines_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return lines_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string> lines_ = {
      "Once upon a time there was a little fox who lived at the edge of the forest.",
      "The fox said: \"I want to see the sea.\" And so she went, day after day.",
      "She met an old owl. The owl asked where she was going in such a hurry.",
      "Die Füchsin ging über die Brücke, und der Fluss war tief und kalt.",
      "Le renard était fatigué; il s'endormit sous un grand chêne près de la rivière.",
      "  Twelve  spaces    and 12345 numbers, 67 of them even: 2, 4, 6, 8.",
      "When the sun came up she could hear the waves, and she was happy at last.",
      "for (int i = 0; i < 10; ++i) { total += values[i] * weights[i]; }",
  };
  size_t next_ = 0;
};

std::string train(const std::string& type, const std::string& normalizer, bool byte_fallback,
                  bool plain_spaces, const std::string& user_defined = "<sep>,fox") {
  Corpus corpus;
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      std::unordered_map<std::string, std::string>{
          {"model_type", type},
          {"vocab_size", byte_fallback ? "400" : "150"},
          {"normalization_rule_name", normalizer},
          {"byte_fallback", byte_fallback ? "true" : "false"},
          {"remove_extra_whitespaces", plain_spaces ? "true" : "false"},
          {"control_symbols", "<|im_start|>,<|im_end|>"},
          {"user_defined_symbols", user_defined},
          {"pad_id", "3"},
          {"hard_vocab_limit", "false"},
          {"minloglevel", "2"},
          {"num_threads", "1"}},
      &corpus, &model);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return model;
}

struct TrainedModel {
  const char* name;
  std::string bytes;
};

const std::vector<TrainedModel>& trained_models() {
  static const std::vector<TrainedModel> models = {
      {"bpe, bytes, identity", train("bpe", "identity", true, false)},
      {"bpe, identity, plain spaces", train("bpe", "identity", false, true)},
      {"bpe, nmt_nfkc", train("bpe", "nmt_nfkc", false, true)},
      {"unigram, bytes, nmt_nfkc", train("unigram", "nmt_nfkc", true, true)},
      {"unigram, nfkc_cf", train("unigram", "nfkc_cf", false, false)},
      {"bpe, bytes, none user-defined", train("bpe", "identity", true, false, "")},
      {"bpe, none user-defined", train("bpe", "identity", false, false, "")},
      {"unigram, none user-defined", train("unigram", "nmt_nfkc", false, true, "")},
  };
  return models;
}

/// The shared data lies beside the project; a clone alone has none.
std::filesystem::path shared(std::string_view path) {
  return std::filesystem::path(VGA_SOURCE_DIR) / ".." / "shared" / path;
}

/// Texts that are hard on a tokenizer, then random ones of every kind.
std::vector<std::string> hard_texts(size_t n_random) {
  std::vector<std::string> texts = {
      "",
      " ",
      "   ",
      "\n",
      "\t\n \n",
      "Once upon a time",
      " leading and trailing ",
      "a    lot     of      spaces",
      "ﬁne ｆｕｌｌｗｉｄｔｈ ½ Ⅷ ﷺ ｶﾞ",
      "e\u0301\u0323 \u1e69 \ud55c\uae00 \u1112\u1161\u11ab",
      "👩‍👩‍👧‍👦 🦊🏴‍☠️ \U0001F1E9\U0001F1EA",
      "\u2581under\u2581score \u2581",
      "<s></s><unk><0x41><|im_start|><sep>foxfox<pad>",
      std::string("nul\0inside", 10),
      std::string(1, '\0'),
      "\xFF\xFE\x80 bad \xC3( \xE2\x82 \xF0\x9F\xA6 \xED\xA0\x80 \xC0\xAF",
      "\xE2\x96",
      std::string(3000, ' '),
      std::string(3000, 'a'),
      "\u00A0\u2003\u200B\uFEFF\u3000mixed spaces",
  };
  std::mt19937 random(7);
  const auto below = [&](uint32_t n) { return random() % n; };
  const std::vector<std::string> words = {"fox", " the",  "sea ", "  ",
                                          "\n",  "<sep>", "12",   "\u2581"};
  for (size_t i = 0; i < n_random; ++i) {
    std::string text;
    for (uint32_t length = below(60); length > 0; --length) {
      switch (i % 4) {
        case 0:
          text += static_cast<char>(below(256));
          break;
        case 1:
          text += static_cast<char>(32 + below(95));
          break;
        case 2: {
          const uint32_t c = below(8) == 0 ? below(0x110000) : below(0x3000);
          append_utf8(text, c >= 0xD800 && c < 0xE000 ? 0xFFFD : c);
          break;
        }
        default:
          text += words[below(static_cast<uint32_t>(words.size()))];
          break;
      }
    }
    texts.push_back(std::move(text));
  }
  return texts;
}

void expect_same(const Tokenizer& tokenizer, const SentencePieceProcessor& library,
                 std::string_view text) {
  const std::vector<int> ids = library.EncodeAsIds({text.data(), text.size()});
  ASSERT_EQ(tokenizer.encode(text), ids) << printable(text.substr(0, 200));
  ASSERT_EQ(tokenizer.decode(ids), library.DecodeIds(ids)) << printable(text.substr(0, 200));
}

/// The vocabulary as a file: with the SentencePiece bytes, or the standard arrays alone.
std::filesystem::path write_vocabulary(const TemporaryDirectory& directory, std::string_view model,
                                       bool keep_original) {
  std::filesystem::path whole = directory.path() / "whole.gguf";
  GgufWriter writer;
  const SentencePieceModel parsed = parse_sentencepiece(bytes_of(model), "test");
  write_tokenizer(parsed, bytes_of(model), writer);
  write_special_tokens(special_tokens_of(parsed), writer);
  OutputFile out(whole);
  writer.begin(out);
  out.commit();
  if (keep_original) return whole;

  const Gguf gguf = Gguf::open(whole);
  GgufImage image;
  for (const auto& [key, value] : gguf.values()) {
    if (key == "tokenizer.sentencepiece.model") continue;
    const std::string payload(reinterpret_cast<const char*>(value.bytes.data()),
                              value.bytes.size());
    if (value.type == GgufType::array) {
      image.set_array(key, value.element, value.count, payload);
    } else {
      image.set(key, value.type, payload);
    }
  }
  return directory.write("arrays.gguf", image.bytes());
}

TEST(Tokenizer, EqualsTheLibraryOnTrainedModels) {
  const auto texts = hard_texts(2000);
  for (const auto& [name, bytes] : trained_models()) {
    SCOPED_TRACE(name);
    SentencePieceProcessor library;
    ASSERT_TRUE(library.LoadFromSerializedProto(bytes).ok());
    const Tokenizer tokenizer = Tokenizer::from_sentencepiece(bytes_of(bytes), name);
    ASSERT_EQ(tokenizer.vocab_size(), static_cast<size_t>(library.GetPieceSize()));
    EXPECT_EQ(tokenizer.bos(), library.bos_id());
    EXPECT_EQ(tokenizer.eos(), library.eos_id());
    for (const std::string& text : texts) expect_same(tokenizer, library, text);
  }
}

TEST(Tokenizer, EqualsTheLibraryOnLongTexts) {
  // Longer than what goes to the library at once, with places to cut of every kind.
  std::mt19937 random(23);
  std::string text;
  for (const std::string& part : hard_texts(10'000)) {
    text += part;
    text += std::array{" ", "  ", "\n", " \u2581", "\u2581 ", "x y"}[random() % 6];
  }
  ASSERT_GT(text.size(), 400'000u);
  size_t n_cut = 0;
  for (const auto& [name, bytes] : trained_models()) {
    SCOPED_TRACE(name);
    n_cut += parse_sentencepiece(bytes_of(bytes), name).words_are_independent;
    SentencePieceProcessor library;
    ASSERT_TRUE(library.LoadFromSerializedProto(bytes).ok());
    const Tokenizer tokenizer = Tokenizer::from_sentencepiece(bytes_of(bytes), name);
    EXPECT_EQ(tokenizer.encode(text), library.EncodeAsIds(text));
  }
  EXPECT_EQ(n_cut, 4u);
}

TEST(Tokenizer, CutsTextsOnlyWhereThePartsAreIndependent) {
  SentencePieceModel model = parse_sentencepiece(bytes_of(trained_models()[0].bytes), "test");
  ASSERT_TRUE(model.words_are_independent);
  // In parts as short as can be, so that every place where a text may be cut is tried.
  for (const auto& [name, bytes] : trained_models()) {
    model = parse_sentencepiece(bytes_of(bytes), name);
    if (!model.words_are_independent) continue;
    SentencePieceProcessor library;
    ASSERT_TRUE(library.LoadFromSerializedProto(bytes).ok());
    for (const std::string& text : hard_texts(2000)) {
      std::vector<int> ids;
      for (std::string_view rest = text; !rest.empty();) {
        const auto part = library.EncodeAsIds(std::string(take_part(rest, 1, model)));
        ids.insert(ids.end(), part.begin(), part.end());
      }
      ASSERT_EQ(ids, library.EncodeAsIds(text)) << printable(text);
    }
  }
  // A piece that spans two words, a piece with a space, rules, other algorithms: never.
  const auto independent = [](auto&& change) {
    SentencePieceModel changed = parse_sentencepiece(bytes_of(trained_models()[0].bytes), "test");
    change(changed);
    validate(changed, "test");
    return changed.words_are_independent;
  };
  using Model = SentencePieceModel;
  EXPECT_TRUE(independent([](Model& m) { m.pieces.back().text = "\u2581\u2581zz"; }));
  EXPECT_FALSE(independent([](Model& m) { m.pieces.back().text = "z\u2581z"; }));
  EXPECT_FALSE(independent([](Model& m) { m.pieces.back().text = "z z"; }));
  EXPECT_FALSE(independent([](Model& m) { m.algorithm = Model::Algorithm::unigram; }));
  EXPECT_FALSE(independent([](Model& m) { m.treat_whitespace_as_suffix = true; }));
  EXPECT_FALSE(independent([](Model& m) { m.escape_whitespaces = false; }));
  EXPECT_FALSE(
      independent([](Model& m) { m.add_dummy_prefix = false, m.remove_extra_whitespaces = true; }));
}

bool has_user_defined(const SentencePieceProcessor& library) {
  return !library.IsUnknown(library.PieceToId("<sep>"));
}

TEST(Tokenizer, EqualsTheLibraryThroughGguf) {
  const auto texts = hard_texts(1000);
  for (const auto& [name, bytes] : trained_models()) {
    SentencePieceProcessor library;
    ASSERT_TRUE(library.LoadFromSerializedProto(bytes).ok());
    for (const bool keep_original : {true, false}) {
      // Where there are arrays alone, user-defined pieces are added tokens.
      if (!keep_original && has_user_defined(library)) continue;
      SCOPED_TRACE(std::string(name) + (keep_original ? ", stored" : ", rebuilt from arrays"));
      const TemporaryDirectory directory;
      const Gguf gguf = Gguf::open(write_vocabulary(directory, bytes, keep_original));
      const Tokenizer tokenizer = Tokenizer::from_gguf(gguf);
      EXPECT_EQ(tokenizer.bos(), 1);
      EXPECT_EQ(tokenizer.eos(), 2);
      EXPECT_TRUE(tokenizer.adds_bos());
      for (const std::string& text : texts) expect_same(tokenizer, library, text);
    }
  }
}

TEST(Tokenizer, EqualsTheLibraryOnSharedModelsAndTexts) {
  std::vector<std::string> texts = hard_texts(1000);
  for (const char* file :
       {"corpora/heldout/tinystories.txt", "corpora/heldout/short_stories.txt"}) {
    if (!exists(shared(file))) GTEST_SKIP() << "no " << shared(file);
    texts.push_back(read_text(shared(file)).substr(0, 300'000));  // the library is not fast
  }
  for (const char* file : {"tokenizers/llama2_32000.model", "tokenizers/tok105.model",
                           "checkpoints/vga-stories-5m/tokenizer.model"}) {
    if (!exists(shared(file))) GTEST_SKIP() << "no " << shared(file);
    SCOPED_TRACE(file);
    const MappedFile bytes(shared(file));
    SentencePieceProcessor library;
    ASSERT_TRUE(library.Load(shared(file).string()).ok());
    const Tokenizer stored = Tokenizer::from_sentencepiece(bytes.bytes(), file);
    for (const std::string& text : texts) expect_same(stored, library, text);

    const TemporaryDirectory directory;
    const std::string_view model(reinterpret_cast<const char*>(bytes.bytes().data()),
                                 bytes.bytes().size());
    const Gguf gguf = Gguf::open(write_vocabulary(directory, model, false));
    const Tokenizer rebuilt = Tokenizer::from_gguf(gguf);
    for (const std::string& text : texts) {
      ASSERT_EQ(rebuilt.encode(text), stored.encode(text)) << printable(text.substr(0, 200));
    }
  }
}

TEST(Tokenizer, EqualsLlamaCppOnItsOwnVocabularyFile) {
  const auto file = shared("tokenizers/ggml-vocab/ggml-vocab-llama-spm.gguf");
  if (!exists(file)) GTEST_SKIP() << "no " << file;
  const Gguf gguf = Gguf::open(file);
  const Tokenizer tokenizer = Tokenizer::from_gguf(gguf);
  const size_t n =
      for_each_ggml_vocab_text(file, [&](const std::string& text, const std::vector<Token>& ids) {
        EXPECT_EQ(tokenizer.encode(text), ids) << printable(text);
      });
  EXPECT_GT(n, 40u);
}

TEST(Tokenizer, ControlTokensOnlyWhenAsked) {
  const Tokenizer tokenizer =
      Tokenizer::from_sentencepiece(bytes_of(trained_models()[0].bytes), "test");
  const Token start = tokenizer.find("<|im_start|>").value();
  const Token end = tokenizer.find("<|im_end|>").value();
  const std::string text = "<|im_start|>fox<|im_end|></s>";
  for (const Token token : tokenizer.encode(text)) EXPECT_FALSE(tokenizer.is_control(token));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);

  std::vector<Token> wanted = {start};
  const std::vector<Token> fox = tokenizer.encode("fox");
  wanted.insert(wanted.end(), fox.begin(), fox.end());
  wanted.insert(wanted.end(), {end, tokenizer.eos().value()});
  EXPECT_EQ(tokenizer.encode(text, Special::parse), wanted);
  wanted.insert(wanted.begin(), tokenizer.bos().value());
  EXPECT_EQ(tokenizer.encode_prompt(text, Special::parse), wanted);

  EXPECT_TRUE(tokenizer.is_end(end));
  EXPECT_TRUE(tokenizer.is_end(*tokenizer.eos()));
  EXPECT_FALSE(tokenizer.is_end(start));
  EXPECT_FALSE(tokenizer.find("<|im_sta|>"));
}

TEST(Tokenizer, PartsAreOneText) {
  const Tokenizer tokenizer =
      Tokenizer::from_sentencepiece(bytes_of(trained_models()[0].bytes), "test");
  using Parts = std::vector<Tokenizer::Part>;
  EXPECT_EQ(tokenizer.encode(Parts{{"Once up", Special::parse}, {"on a time"}}),
            tokenizer.encode("Once upon a time"));
  // Halves of a marker in two parts are no marker, nor is one in the user's part.
  const auto tokens = tokenizer.encode(Parts{
      {"<|im_start|>", Special::parse}, {"<|im_end|>"}, {"<|im_", Special::parse}, {"end|>"}});
  for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(tokenizer.is_control(tokens[i]), i == 0);
  EXPECT_TRUE(tokenizer.encode(Parts{}).empty());
}

TEST(Tokenizer, IsUsableFromManyThreads) {
  const Tokenizer tokenizer =
      Tokenizer::from_sentencepiece(bytes_of(trained_models()[3].bytes), "test");
  const auto texts = hard_texts(100);
  std::vector<std::vector<Token>> wanted;
  for (const std::string& text : texts) wanted.push_back(tokenizer.encode(text));
  std::vector<std::thread> threads;
  std::atomic<size_t> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) {
        if (tokenizer.encode(texts[i]) != wanted[i]) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0u);
}

TEST(StreamDecoder, PiecesConcatenateToTheWholeText) {
  for (const auto& [name, bytes] : trained_models()) {
    SCOPED_TRACE(name);
    SentencePieceProcessor library;
    ASSERT_TRUE(library.LoadFromSerializedProto(bytes).ok());
    const Tokenizer tokenizer = Tokenizer::from_sentencepiece(bytes_of(bytes), name);
    std::mt19937 random(11);
    const auto n = static_cast<uint32_t>(tokenizer.vocab_size());
    for (int round = 0; round < 3000; ++round) {
      std::vector<Token> tokens(random() % 30);
      // Every other round from the front of the vocabulary, where the byte pieces are.
      for (Token& token : tokens) {
        token = static_cast<Token>(random() % (round % 2 == 0 ? n : std::min(n, 270u)));
      }
      StreamDecoder decoder(tokenizer);
      std::string text;
      for (const Token token : tokens) {
        const std::string piece = decoder.add(token);
        ASSERT_TRUE(is_utf8(piece));
        text += piece;
      }
      const std::string rest = decoder.finish();
      ASSERT_TRUE(is_utf8(rest));
      ASSERT_EQ(text + rest, library.DecodeIds(tokens));
      ASSERT_EQ(tokenizer.decode(tokens), text + rest);
    }
  }
}

TEST(StreamDecoder, KeepsTheSpaceOfATextThatContinues) {
  const Tokenizer tokenizer =
      Tokenizer::from_sentencepiece(bytes_of(trained_models()[0].bytes), "test");
  const Token the = tokenizer.find("\u2581the").value();
  EXPECT_EQ(StreamDecoder(tokenizer).add(the), "the");
  EXPECT_EQ(StreamDecoder(tokenizer, true).add(the), " the");
}

TEST(StreamDecoder, RefusesTokensOutOfRange) {
  const Tokenizer tokenizer =
      Tokenizer::from_sentencepiece(bytes_of(trained_models()[0].bytes), "test");
  StreamDecoder decoder(tokenizer);
  for (const Token token : {-1, static_cast<Token>(tokenizer.vocab_size()), INT32_MAX, INT32_MIN}) {
    EXPECT_THROW(decoder.add(token), Error);
    EXPECT_THROW(tokenizer.decode(std::vector<Token>{token}), Error);
  }
}

}  // namespace
}  // namespace vga::test
