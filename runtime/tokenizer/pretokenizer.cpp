#include "tokenizer/pretokenizer.h"

#include <algorithm>
#include <array>
#include <cassert>
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
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯ"
    "Ա-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-"
    "Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼ\\x{1FBE}ῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴ"
    "ῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\\x{2126}ℨ\\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃ"
    "ↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗ"
    "Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
constexpr const char* punctuation = "\\s?[!-/:-~！-／：-～‘-‟\\x{3000}-。]+";
constexpr const char* spaces_at_the_end = R"(\s+$)";
constexpr const char* cjk = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";

// Trinity's: digits in threes counted from the right, scripts that are written without spaces.
constexpr const char* first_digits = R"(^\p{N}{1,2}(?=(?:\p{N}{3})+\z)|\p{N}{1,3})";
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
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> spellings = {{
      {"(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?i:'(?:s|t|re|ve|m|ll|d))"},
      {"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "(?i:'(?:s|t|re|ve|m|ll|d))"},
      {"'s|'t|'re|'ve|'m|'ll|'d|", "'(?:s|t|re|ve|m|ll|d)|"},
  }};
  for (const auto& [theirs, ours] : spellings) {
    const size_t at = pattern.find(theirs);
    if (at != std::string::npos) pattern.replace(at, theirs.size(), ours);
  }
  return pattern;
}

[[noreturn]] void fail(int code) {
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
    if (code_ == nullptr) fail(error);
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
    if (found < 0) fail(found);
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
  for (const std::string& expression : expressions) ours.push_back(our_spelling(expression));
  for (const Rules& rules : known) {
    const auto n = static_cast<size_t>(std::ranges::count_if(
        rules.expressions, [](const char* pattern) { return pattern != nullptr; }));
    if (rules.keeps_whole_words == keeps_whole_words && n == ours.size() &&
        std::equal(ours.begin(), ours.end(), rules.expressions.begin())) {
      return rules.name;
    }
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
