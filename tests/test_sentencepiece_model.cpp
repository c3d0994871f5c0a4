/// Bad tokenizer.model files, one row each, and every file that a flipped byte makes.

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "gguf_image.h"
#include "tokenizer/sentencepiece_model.h"
#include "vga/error.h"
#include "vga/tokenizer.h"

namespace vga::test {
namespace {

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string number(uint32_t field, uint64_t value) {
  return varint(field << 3) + varint(value);
}
std::string bytes_field(uint32_t field, std::string_view value) {
  return varint(field << 3 | 2) + varint(value.size()) + std::string(value);
}
std::string piece(std::string_view text, uint64_t type = 1, float score = 0) {
  return bytes_field(1, bytes_field(1, text) + varint(2 << 3 | 5) + raw(score) + number(3, type));
}
/// A good little BPE model, to which each row adds what is wrong.
std::string good(std::string_view more = "") {
  return piece("<unk>", 2) + piece("<s>", 3) + piece("</s>", 3) + piece("a") +
         bytes_field(2, number(3, 2)) + std::string(more);
}
std::string charsmap(std::string_view blob) {
  return bytes_field(3, bytes_field(2, blob));
}
/// Rules that make `text` of each single byte `a`: unit 0 is the root, its children lie at 256.
std::string rule(std::string_view text, uint32_t leaf_value = 0) {
  std::vector<uint32_t> units(1024, 1u << 31);  // a label that matches no byte
  units[0] = 256 << 10;
  units[256 ^ 'a'] = (512 << 10) | 1 << 8 | 'a';
  units[256 ^ 'a' ^ 512] = leaf_value | 1u << 31;
  std::string blob = raw(static_cast<uint32_t>(units.size() * 4));
  blob.append(reinterpret_cast<const char*>(units.data()), units.size() * 4);
  return blob + std::string(text) + '\0';
}
/// The same with the root's children moved to `offset`.
std::string rule_with_root_at(uint32_t offset) {
  std::string blob = rule("b");
  const uint32_t unit = offset << 10;
  std::memcpy(blob.data() + 4, &unit, sizeof unit);
  return blob;
}

struct WrongModel {
  const char* name;
  std::string bytes;
  const char* says;
};

TEST(SentencePieceModel, TheGoodOnesOfTheTableAreGood) {
  EXPECT_NO_THROW(Tokenizer::from_sentencepiece(bytes_of(good()), "f"));
  const std::string ruled = good(charsmap(rule("bcd")));
  const Tokenizer tokenizer = Tokenizer::from_sentencepiece(bytes_of(ruled), "f");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a")), " \u2047 ");
}

TEST(SentencePieceModel, RefusesBadFiles) {
  const float nan = std::nanf("");
  std::string nested = good();
  for (size_t n = 1; n <= 65; ++n) nested += piece(std::string(n, 'x'), 4);
  std::string nine_bytes = good(bytes_field(2, number(35, 1)));
  for (int i = 0; i < 9; ++i) nine_bytes += piece("<0x0" + std::to_string(i) + ">", 6);
  std::string loop = rule("b");
  // An 'a' behind the 'a' that leads to the same children again.
  const uint32_t back = 'a' << 10 | 'a';
  std::memcpy(loop.data() + 4 + (256 ^ 512) * sizeof back, &back, sizeof back);
  const std::vector<WrongModel> table = {
      {"empty file", "", "no pieces"},
      {"truncated varint", good() + "\x80", "cut off inside a number"},
      {"endless varint", good() + std::string(11, '\x80'), "longer than 10 bytes"},
      {"field number 0", good() + std::string("\0\0", 2), "invalid field number"},
      {"group", good() + "\x0B", "wire type 3"},
      {"length of 2^31", good() + "\x0A" + varint(1ull << 31), "2147483648"},
      {"length of 2^64-1", good() + "\x0A" + varint(~0ull), "18446744073709551615"},
      {"piece that is a number", good() + number(1, 5), "wanted bytes"},
      {"score that is a string", good(bytes_field(1, bytes_field(2, "x"))), "wanted a float"},
      {"200 KB piece", good(piece(std::string(200'000, 'x'))), "200000 bytes"},
      {"piece of 4097 bytes", good(piece(std::string(4097, 'x'))), "4097"},
      {"NUL in a piece", good(piece(std::string("b\0c", 3))), "NUL"},
      {"empty piece", good(piece("")), "piece 4 '' is empty"},
      {"piece that is not UTF-8", good(piece("\xFF")), "not UTF-8"},
      {"duplicate piece", good(piece("a")), "twice"},
      {"NaN score", good(piece("b", 1, nan)), "finite"},
      {"infinite score", good(piece("b", 1, std::numeric_limits<float>::infinity())), "finite"},
      {"type 7", good(piece("b", 7)), "found 7"},
      {"type 0", good(piece("b", 0)), "found 0"},
      {"no unknown piece", piece("a") + piece("b") + piece("c"), "unknown"},
      {"two unknown pieces", good(piece("<unk2>", 2)), "found 2"},
      {"control token of one letter", good(piece("b", 3)), "one character"},
      {"bos out of range", good(bytes_field(2, number(41, 99))), "bos_id"},
      {"eos out of range", good(bytes_field(2, number(42, 5))), "eos_id"},
      {"default eos out of range", piece("<unk>", 2) + piece("a"), "eos_id"},
      {"unk out of range", good(bytes_field(2, number(40, 1 << 30))), "unk_id"},
      {"pad out of range", good(bytes_field(2, number(43, 4))), "pad_id"},
      {"word model", good(bytes_field(2, number(3, 3))), "model_type"},
      {"char model", good(bytes_field(2, number(3, 4))), "model_type"},
      {"byte piece <0x-1>", good(bytes_field(2, number(35, 1)) + piece("<0x-1>", 6)), "<0x-1>"},
      {"byte piece <0xGG>", good(bytes_field(2, number(35, 1)) + piece("<0xGG>", 6)), "<0xGG>"},
      {"byte piece <0xaa>", good(bytes_field(2, number(35, 1)) + piece("<0xaa>", 6)), "<0xaa>"},
      {"byte piece without byte_fallback", good(piece("<0x00>", 6)), "byte_fallback is off"},
      {"byte_fallback without bytes", good(bytes_field(2, number(35, 1))), "found 0"},
      {"byte_fallback with nine bytes", nine_bytes, "found 9"},
      {"user defined pieces nested too deep", nested, "begin like"},
      {"unk_surface with NUL", good(bytes_field(2, bytes_field(44, std::string(1, '\0')))),
       "unk_surface"},
      {"denormalizer", good(bytes_field(5, bytes_field(2, "x"))), "denormalizer_spec"},
      {"charsmap of 1 byte", good(charsmap("x")), "too small"},
      {"charsmap of 2 MB", good(charsmap(std::string(2 << 20, 'x'))), "2097152"},
      {"charsmap whose trie is longer", good(charsmap(raw<uint32_t>(4096) + "xx")), "4096"},
      {"charsmap of odd length", good(charsmap(raw<uint32_t>(3) + "xxxx")), "trie of 3"},
      {"charsmap without a trie", good(charsmap(raw<uint32_t>(0) + std::string(4, '\0'))), "empty"},
      {"charsmap not terminated", good(charsmap(raw<uint32_t>(4) + "xxxxyyyy")), "terminated"},
      {"trie that ends after its root", good(charsmap(raw<uint32_t>(4) + std::string(5, '\0'))),
       "points outside"},
      {"trie that points outside", good(charsmap(rule_with_root_at(2048))), "points outside"},
      {"trie that points far outside", good(charsmap(rule_with_root_at(0x1FFFFF))),
       "points outside"},
      {"trie that loops", good(charsmap(loop)), "32 bytes"},
      {"replacement outside", good(charsmap(rule("b", 3))), "outside"},
      {"replacement far outside", good(charsmap(rule("b", 0x7FFFFFFF))), "outside"},
      {"replacement that is not UTF-8", good(charsmap(rule("\xC3"))), "not UTF-8"},
      {"replacement of 10 KB", good(charsmap(rule(std::string(10'000, 'b')))),
       "10000 bytes of one"},
  };
  for (const auto& [name, bytes, says] : table) {
    SCOPED_TRACE(name);
    try {
      Tokenizer::from_sentencepiece(bytes_of(bytes), "bad.model");
      ADD_FAILURE() << "was taken";
    } catch (const Error& error) {
      const std::string_view message = error.what();
      EXPECT_TRUE(message.starts_with("bad.model: ")) << message;
      EXPECT_NE(message.find(says), std::string_view::npos) << message;
    }
  }
}

TEST(SentencePieceModel, EveryPrefixAndEveryFlippedByteIsTakenOrRefused) {
  const std::string bytes = good(charsmap(rule("bcd"))) + piece("\u2581a") + piece("ab", 4);
  const auto attempt = [](const std::string& changed) {
    try {
      const Tokenizer tokenizer = Tokenizer::from_sentencepiece(bytes_of(changed), "f");
      tokenizer.decode(tokenizer.encode("a ab\xFF \u2581"));
    } catch (const Error&) {
    }
  };
  for (size_t n = 0; n < bytes.size(); ++n) attempt(bytes.substr(0, n));
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const int bit : {0, 1, 3, 7}) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(changed[i] ^ 1 << bit);
      attempt(changed);
    }
  }
}

TEST(SentencePieceModel, SurvivesPiecesOfTheLargestSize) {
  for (const uint64_t algorithm : {1, 2}) {
    std::string bytes = good(bytes_field(2, number(3, algorithm)));
    bytes += piece(std::string(max_piece_bytes, 'x'), 4) + piece(std::string(max_piece_bytes, 'a'));
    const Tokenizer tokenizer = Tokenizer::from_sentencepiece(bytes_of(bytes), "f");
    const std::string text(3 * max_piece_bytes, 'x');
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), " \u2047 " + text);
  }
}

TEST(SentencePieceModel, FlagsSurviveSerialization) {
  SentencePieceModel model = parse_sentencepiece(bytes_of(good()), "f");
  model.treat_whitespace_as_suffix = true;
  model.add_dummy_prefix = false;
  model.remove_extra_whitespaces = false;
  model.escape_whitespaces = false;
  model.unk_surface = "?";
  model.eos = std::nullopt;
  model.pad = 3;
  const SentencePieceModel again = parse_sentencepiece(bytes_of(serialize(model)), "f");
  EXPECT_TRUE(again.treat_whitespace_as_suffix);
  EXPECT_FALSE(again.add_dummy_prefix);
  EXPECT_FALSE(again.remove_extra_whitespaces);
  EXPECT_FALSE(again.escape_whitespaces);
  EXPECT_EQ(again.unk_surface, "?");
  EXPECT_EQ(again.eos, std::nullopt);
  EXPECT_EQ(again.pad, 3);
}

}  // namespace
}  // namespace vga::test
