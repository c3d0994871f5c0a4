#include <array>
#include <cstdint>

#include <gtest/gtest.h>

#include "base/text.h"
#include "vga/error.h"

namespace vga {
namespace {

TEST(Text, Utf8LengthTellsCompleteUnfinishedAndInvalid) {
  struct Case {
    std::string_view text;
    int length;
  };
  const Case cases[] = {
      {"a", 1},
      {std::string_view("\0", 1), 1},
      {"\x7F", 1},
      {"é", 2},
      {"€ and more", 3},
      {"🦊", 4},
      {"\xC3", 0},
      {"\xE2\x82", 0},
      {"\xF0\x9F\xA6", 0},
      {"\xF4\x8F\xBF\xBF", 4},
      {"\x80", -1},          // no character starts so
      {"\xC0\xAF", -1},      // overlong
      {"\xC1", -1},          // could only be overlong
      {"\xE0\x80", -1},      // overlong
      {"\xF0\x8F", -1},      // overlong
      {"\xED\xA0\x80", -1},  // surrogate
      {"\xF4\x90", -1},      // above U+10FFFF
      {"\xF5", -1},
      {"\xFF", -1},
      {"\xC3(", -1},
      {"\xE2\x82(", -1},
  };
  for (const auto& [text, length] : cases) EXPECT_EQ(utf8_length(text), length) << printable(text);
}

TEST(Text, AppendedCodePointsAreUtf8) {
  for (uint32_t c = 0; c <= 0x10FFFF; c += c < 0x3000 ? 1 : 97) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    ASSERT_EQ(utf8_length(text), static_cast<int>(text.size())) << c;
    for (size_t n = 1; n < text.size(); ++n) ASSERT_EQ(utf8_length(text.substr(0, n)), 0) << c;
  }
}

TEST(Text, IsUtf8) {
  EXPECT_TRUE(is_utf8(""));
  EXPECT_TRUE(is_utf8("plain, grün, 한글, 🦊"));
  EXPECT_FALSE(is_utf8("cut \xE2\x82"));
  EXPECT_FALSE(is_utf8("\xFF in front"));
}

TEST(Text, RepairsWhatIsNotUtf8) {
  std::string out = "> ";
  EXPECT_EQ(append_repaired(out, "grün\xFF\xED\xA0\x80 \xE2\x82(\xF0\x9F\xA6", false), 13u);
  EXPECT_EQ(out, "> grün\uFFFD\uFFFD\uFFFD\uFFFD \uFFFD\uFFFD(");
  out.clear();
  EXPECT_EQ(append_repaired(out, "a\xF0\x9F\xA6", true), 4u);
  EXPECT_EQ(out, "a\uFFFD\uFFFD\uFFFD");
}

TEST(Text, PrintableKeepsTextAndEscapesTheRest) {
  EXPECT_EQ(printable("grün 🦊"), "grün 🦊");
  EXPECT_EQ(printable("two\nlines"), "two\\nlines");
  EXPECT_EQ(printable("\x1B[2J"), "\\x1B[2J");
  EXPECT_EQ(printable(std::string_view("\0\x7F\xFF", 3)), "\\x00\\x7F\\xFF");
  EXPECT_EQ(printable("\xC2\x9B"), "\\xC2\\x9B");  // CSI as a C1 control character
  EXPECT_EQ(printable("\xE2\x82"), "\\xE2\\x82");
}

TEST(Text, ErrorsAreOneLine) {
  EXPECT_STREQ(Error("a\nb", "c\x1B").what(), "a\\nb: c\\x1B");
}

TEST(Text, Numbers) {
  EXPECT_EQ(human_bytes(0), "0 bytes");
  EXPECT_EQ(human_bytes(1023), "1023 bytes");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(uint64_t{5} << 30), "5.0 GiB");
  EXPECT_EQ(human_bytes(UINT64_MAX), "16.0 EiB");
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(12810240), "12,810,240");
  EXPECT_EQ(joined(std::array<uint64_t, 3>{576, 0, 1536}, " x "), "576 x 0 x 1536");
  EXPECT_EQ(bracketed(std::array<uint64_t, 2>{4096, 256}), "(4096, 256)");
  EXPECT_EQ(bracketed({}), "()");
}

}  // namespace
}  // namespace vga
