#include "tokenizer/pretokenizer.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <cstdint>
#include <new>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/text.h"
#include "vga/error.h"

namespace vga {
namespace {

constexpr const char* gpt2 =
    R"('(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* llama3 = R"((?i:'(?:s|t|re|ve|m|ll|d))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
                               R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen2 = R"((?i:'(?:s|t|re|ve|m|ll|d))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                              R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Words begin where a capital follows a small letter: HelloWorld.
constexpr const char* tekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// As qwen2, but marks belong to the letters before them.
constexpr const char* qwen35 =
    R"((?i:'(?:s|t|re|ve|m|ll|d))|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|)"
    R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// As tekken, but contractions stay with the word and digits come in threes.
constexpr const char* gpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'(?:s|t|re|ve|m|ll|d))?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'(?:s|t|re|ve|m|ll|d))?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* digit = R"(\p{N})";
constexpr const char* digits = R"(\p{N}+)";

// DeepSeek's first: letters with cases, ASCII punctuation and that of full width, CJK.
constexpr const char* line_break = R"([\r\n])";
constexpr const char* cased_letters =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A})"
    R"(\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556})"
    R"(\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF})"
    R"(\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})"
    R"(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-)"
    R"(\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC})"
    R"(\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC})"
    R"(\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128})"
    R"(\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E})"
    R"(\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3})"
    R"(\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E})"
    R"(\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A})"
    R"(\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-)"
    R"(\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)";
constexpr const char* punctuation =
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)";
constexpr const char* spaces_at_the_end = R"(\s+$)";
constexpr const char* cjk = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";

// Trinity's: digits in threes counted from the right, scripts that are written without spaces.
constexpr const char* first_digits = R"(^\p{N}{1,2}(?=(?:\p{N}{3})+\z)|\p{N}{1,3})";
/// Both at once, by an expression that looks ahead of each group to the end of the digits.
constexpr std::string_view threes_from_the_right = R"(\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N})))";
constexpr const char* scripts_without_spaces =
    R"([\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{F900}-\x{FAFF}\x{3040}-\x{309F}\x{30A0}-\x{30FF})"
    R"(\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}\x{E00}-\x{E7F}\x{E80}-\x{EFF}\x{1780}-\x{17FF})"
    R"(\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}]+)";
constexpr const char* deepseek3_words =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// PCRE2's \s adds U+180E, which the engines that the tokenizers were trained with count among the
/// format characters.
std::string with_unicode_spaces(std::string_view pattern) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const std::string_view escape = pattern.substr(i, 2);
    if (escape[0] != '\\') {
      out += escape[0];
      continue;
    }
    ++i;
    if (escape == "\\s") {
      out += "\\p{White_Space}";
    } else if (escape == "\\S") {
      out += "\\P{White_Space}";
    } else {
      out += escape;
    }
  }
  return out;
}

struct Rules {
  std::string_view name;
  std::array<const char*, 6> expressions;  // a null one is none
  bool keeps_whole_words = false;
  bool adds_bos = false;
  bool normalizes = false;  // to NFC
};

// Several names for the same rules: llama.cpp has one for each family of models.
constexpr std::array<Rules, 18> known = {{
    {"gpt-2", {gpt2}},
    {"olmo", {gpt2}, false, false, true},
    {"llama-bpe", {llama3}, true, true},
    {"llama-v3", {llama3}, true, true},
    {"llama3", {llama3}, true, true},
    {"falcon3", {llama3}, true, true},
    {"pixtral", {llama3}, true, true},
    {"dbrx", {llama3}},
    {"smaug-bpe", {llama3}},
    {"qwen2", {qwen2}, false, false, true},
    {"deepseek-r1-qwen", {qwen2}, false, false, true},
    {"qwen35", {qwen35}, false, false, true},
    {"smollm", {digit, gpt2}},
    {"refact", {digit, gpt2}},
    {"tekken", {tekken}, true, true},
    {"gpt-4o", {gpt4o}},
    {"deepseek-llm",
     {line_break, cased_letters, punctuation, spaces_at_the_end, cjk, digits},
     false,
     true},
    {"afmoe", {digits, first_digits, scripts_without_spaces, deepseek3_words}},
}};

/// Contractions are spelled in several ways in Hugging Face's files, in one way here.
std::string our_spelling(std::string pattern) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 2> spellings = {{
      {"(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?i:'(?:s|t|re|ve|m|ll|d))"},
      {"'s|'t|'re|'ve|'m|'ll|'d|", "'(?:s|t|re|ve|m|ll|d)|"},
  }};
  for (const auto& [theirs, ours] : spellings) {
    for (size_t at = pattern.find(theirs); at != std::string::npos;
         at = pattern.find(theirs, at + ours.size())) {
      pattern.replace(at, theirs.size(), ours);
    }
  }
  return pattern;
}

/// The character that a pattern begins with, if that is spelled \x{4E00} or \u4E00 and not ASCII,
/// and the length of that.
std::pair<uint32_t, size_t> spelled_character(std::string_view pattern) {
  const bool in_braces = pattern.starts_with(R"(\x{)");
  const size_t brace = pattern.find('}');
  if (in_braces ? brace == pattern.npos : !pattern.starts_with(R"(\u)")) return {};
  const std::string_view hex = in_braces ? pattern.substr(3, brace - 3) : pattern.substr(2, 4);
  if (!in_braces && hex.size() < 4) return {};
  uint32_t character = 0;
  const char* end = hex.data() + hex.size();
  if (std::from_chars(hex.data(), end, character, 16).ptr != end) return {};
  const bool is_one = character < 0xD800 || (character > 0xDFFF && character <= 0x10FFFF);
  if (character < 0x80 || !is_one) return {};
  return {character, in_braces ? hex.size() + 4 : hex.size() + 2};
}

/// A pattern with characters themselves for their numbers.
std::string with_characters(std::string_view pattern) {
  std::string out;
  while (!pattern.empty()) {
    auto [character, length] = spelled_character(pattern);
    if (length > 0) {
      append_utf8(out, character);
    } else {
      length = std::min<size_t>(pattern[0] == '\\' ? 2 : 1, pattern.size());
      out += pattern.substr(0, length);
    }
    pattern.remove_prefix(length);
  }
  return out;
}

[[noreturn]] void fail_to_split(int code) {
  std::array<PCRE2_UCHAR, 256> message{};
  pcre2_get_error_message(code, message.data(), message.size());
  throw Error("text", "cannot be cut into words: PCRE2 says " +
                          std::string(reinterpret_cast<const char*>(message.data())));
}

}  // namespace

class Pretokenizer::Expression {
 public:
  explicit Expression(std::string_view common_pattern) {
    const std::string pattern = with_unicode_spaces(common_pattern);
    int error = 0;
    PCRE2_SIZE at = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                          PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr);
    if (code_ == nullptr) fail_to_split(error);
    // Where this fails (no memory may be made executable), matching is slower and no different.
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);
  }
  Expression(const Expression&) = delete;
  Expression& operator=(const Expression&) = delete;
  ~Expression() { pcre2_code_free(code_); }

  const pcre2_code* code() const { return code_; }

 private:
  pcre2_code* code_;
};

/// What one expression needs while it is matched.
class Pretokenizer::Matcher {
 public:
  explicit Matcher(const Expression& expression)
      : code_(expression.code()),
        data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    if (!data_ || !context_) throw std::bad_alloc();
    // Stepping back over a long run of spaces counts against it, once per space.
    pcre2_set_match_limit(context_.get(), UINT32_MAX);
  }

  /// Begin and end of the next match in `text` from `from` on; an empty one at the end if none.
  std::pair<size_t, size_t> next(std::string_view text, size_t from) const {
    const auto match = [&](uint32_t options) {
      return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | options, data_.get(), context_.get());
    };
    int found = match(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) return {text.size(), text.size()};
    if (found < 0) fail_to_split(found);
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data_.get());
    assert(bounds[0] >= from && bounds[1] > bounds[0]);
    return {bounds[0], bounds[1]};
  }

 private:
  struct Free {
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  };
  const pcre2_code* code_;
  std::unique_ptr<pcre2_match_data, Free> data_;
  std::unique_ptr<pcre2_match_context, Free> context_;
};

Pretokenizer::Pretokenizer() = default;
Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;
Pretokenizer& Pretokenizer::operator=(Pretokenizer&&) noexcept = default;
Pretokenizer::~Pretokenizer() = default;

std::optional<Pretokenizer> Pretokenizer::find(std::string_view name) {
  for (const Rules& rules : known) {
    if (rules.name != name) continue;
    Pretokenizer found;
    for (const char* pattern : rules.expressions) {
      if (pattern) found.expressions_.push_back(std::make_unique<const Expression>(pattern));
    }
    found.keeps_whole_words_ = rules.keeps_whole_words;
    found.adds_bos_ = rules.adds_bos;
    found.normalizes_ = rules.normalizes;
    return found;
  }
  return std::nullopt;
}

std::optional<std::string_view> Pretokenizer::name_of(std::span<const std::string> expressions,
                                                      bool keeps_whole_words) {
  std::vector<std::string> ours;
  for (const std::string& expression : expressions) {
    if (expression == threes_from_the_right) {
      ours.insert(ours.end(), {digits, first_digits});
    } else {
      ours.push_back(with_characters(our_spelling(expression)));
    }
  }
  for (const Rules& rules : known) {
    std::vector<std::string> patterns;
    for (const char* pattern : rules.expressions) {
      if (pattern != nullptr) patterns.push_back(with_characters(pattern));
    }
    if (rules.keeps_whole_words == keeps_whole_words && patterns == ours) return rules.name;
  }
  return std::nullopt;
}

std::string Pretokenizer::names() {
  return names_of(known);
}

void Pretokenizer::split(std::string_view text,
                         const std::function<void(std::string_view)>& word) const {
  std::vector<Matcher> matchers;
  for (const auto& expression : expressions_) matchers.emplace_back(*expression);

  // Matches and what lies between them are words alike, to be cut by the expressions that follow.
  const auto cut = [&](const auto& self, size_t depth, std::string_view rest) -> void {
    if (depth == matchers.size()) return word(rest);
    for (size_t at = 0; at < rest.size();) {
      const auto [begin, end] = matchers[depth].next(rest, at);
      if (begin > at) self(self, depth + 1, rest.substr(at, begin - at));
      if (end > begin) self(self, depth + 1, rest.substr(begin, end - begin));
      at = end;
    }
  };
  cut(cut, 0, text);
}

}  // namespace vga
