#include "tokenizer/byte_bpe.h"

#include <algorithm>
#include <functional>

#include "base/text.h"
#include "tokenizer/nfc.h"
#include "vga/error.h"

namespace vga {
namespace {

/// A longer word is merged in stretches of this size, so that memory stays small whatever the text.
constexpr size_t max_word_bytes = 1 << 20;
constexpr uint32_t no_neighbour = UINT32_MAX;

/// Code point to byte in GPT-2's spelling, -1 where there is none: printable Latin-1 characters
/// stand for themselves, the other bytes for code points from 256 on.
constexpr auto byte_of_code = [] {
  std::array<int, 256 + 68> table{};
  table.fill(-1);
  size_t other = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable_byte = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    table[printable_byte ? static_cast<size_t>(byte) : other++] = byte;
  }
  return table;
}();

/// The inverse.
constexpr auto code_of_byte = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t code = 0; code < byte_of_code.size(); ++code) {
    if (byte_of_code[code] >= 0) table[static_cast<size_t>(byte_of_code[code])] = code;
  }
  return table;
}();

/// Calls byte(b) for every byte that `spelling`, UTF-8, stands for; false, and it stops, at a
/// character that stands for none.
template <class Byte>
bool for_each_spelled_byte(std::string_view spelling, Byte&& byte) {
  for (size_t i = 0; i < spelling.size(); ++i) {
    size_t code = static_cast<unsigned char>(spelling[i]);
    if (code >= 0xE0) return false;
    if (code >= 0xC0)
      code = (code & 0x1F) << 6 | (static_cast<unsigned char>(spelling[++i]) & 0x3F);
    if (code >= byte_of_code.size() || byte_of_code[code] < 0) return false;
    byte(static_cast<char>(byte_of_code[code]));
  }
  return true;
}

void spell(std::string_view bytes, std::string& out) {
  out.clear();
  for (const char c : bytes) append_utf8(out, code_of_byte[static_cast<unsigned char>(c)]);
}

uint64_t pair_key(Token left, Token right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
}

}  // namespace

std::string missing_byte_problem(const std::function<bool(std::string_view)>& has) {
  std::string spelling;
  for (int byte = 0; byte < 0x7F; ++byte) {
    const char c = static_cast<char>(byte);
    spell({&c, 1}, spelling);
    const bool needed = byte >= 0x20 || c == '\n' || c == '\t';
    if (needed && !has(spelling)) {
      return "wanted a token for every ASCII character, found none for byte " +
             std::to_string(byte);
    }
  }
  return {};
}

ByteBpe::ByteBpe(const Gguf& gguf, std::string_view pre) {
  namespace key = vocabulary_key;
  const std::string_view name = pre.empty() ? gguf.string(key::pre).value_or("") : pre;
  pretokenizer_ = Pretokenizer::find(name);
  if (!pretokenizer_) {
    const std::string problem =
        name.empty() ? "is missing" : "'" + std::string(name) + "' is not supported";
    throw Error(pre.empty() ? key_in(gguf, key::pre) : "--pre",
                problem + ", wanted one of " + Pretokenizer::names() +
                    (pre.empty() ? "; --pre NAME takes one for this run" : ""));
  }
  const std::string_view normalizer =
      gguf.string(key::normalizer).value_or(pretokenizer_->normalizes() ? "nfc" : "none");
  normalizes_ = normalizer == "nfc";
  if (!normalizes_ && normalizer != "none") {
    throw Error(key_in(gguf, key::normalizer),
                "wanted 'none' or 'nfc', found '" + std::string(normalizer) + "'");
  }
  const Vocabulary vocabulary = read_vocabulary(gguf);
  read_tokens(gguf, vocabulary);
  read_merges(gguf);
  bos_ = vocabulary.bos;
  eos_ = vocabulary.eos;
  ends_ = vocabulary.ends;
  adds_bos_ = vocabulary.adds_bos.value_or(pretokenizer_->adds_bos());
}

void ByteBpe::read_tokens(const Gguf& gguf, const Vocabulary& vocabulary) {
  const size_t n = vocabulary.texts.size();
  size_t size = 0;
  for (const std::string_view text : vocabulary.texts) size += text.size();
  storage_.reserve(size);
  texts_.reserve(n);
  types_ = vocabulary.types;
  by_text_ = HashIndex(n);
  const auto text_of = [&](int32_t i) { return texts_[static_cast<size_t>(i)]; };
  for (size_t i = 0; i < n; ++i) {
    const std::string_view text = vocabulary.texts[i];
    const auto fail = [&](std::string_view key, const std::string& what) {
      throw Error(key_in(gguf, key), entry_name("token", i, text) + what);
    };
    const std::string problem = piece_problem(text);
    if (!problem.empty()) fail(vocabulary_key::tokens, problem);
    if (types_[i] == PieceType::byte) {
      fail(vocabulary_key::types, "wanted a type from 1 to 5, found 6");
    }
    if (types_[i] == PieceType::unknown) types_[i] = PieceType::control;
    if (types_[i] == PieceType::normal && !for_each_spelled_byte(text, [](char) {})) {
      fail(vocabulary_key::tokens, "has a character that stands for no byte");
    }
    storage_ += text;
    texts_.push_back(std::string_view(storage_).substr(storage_.size() - text.size()));
    if (!by_text_.insert(texts_.back(), static_cast<Token>(i), text_of)) {
      fail(vocabulary_key::tokens, "is there twice");
    }
    max_text_ = std::max(max_text_, text.size());
  }

  std::string spelling;
  for (size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    const char c = static_cast<char>(byte);
    spell({&c, 1}, spelling);
    byte_tokens_[byte] = find(spelling);
  }
  const std::string problem =
      missing_byte_problem([&](std::string_view text) { return find(text) >= 0; });
  if (!problem.empty()) throw Error(key_in(gguf, vocabulary_key::tokens), problem);
}

void ByteBpe::read_merges(const Gguf& gguf) {
  const std::string_view key = vocabulary_key::merges;
  const auto merges = gguf.required(key, gguf.strings(key));
  if (merges.size() > INT32_MAX) throw Error(key_in(gguf, key), "has too many entries");
  merges_.reserve(merges.size());
  merge_of_pair_ = HashIndex(merges.size());
  std::string made;
  Token last = 0;  // that a merge made
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string_view text = merges[i];
    const auto fail = [&](const std::string& what) {
      throw Error(key_in(gguf, key), entry_name("merge", i, text) + what);
    };
    const auto token_of = [&](std::string_view part, const char* what) {
      const Token token = find(part);
      if (token < 0) fail(std::string(what) + " that is not in the vocabulary");
      return token;
    };
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == text.size() ||
        text.find(' ', space + 1) != std::string_view::npos) {
      fail("is not two tokens with a space between them");
    }
    const std::string_view left = text.substr(0, space);
    const std::string_view right = text.substr(space + 1);
    made.assign(left).append(right);
    const Token left_token = token_of(left, "has a left part");
    const Token right_token = token_of(right, "has a right part");
    // Vocabularies list what merges make in the order of the merges: one look instead of a search.
    const auto next = static_cast<size_t>(last) + 1;
    const bool in_order = next < texts_.size() && texts_[next] == made && is_part(next);
    last = in_order ? static_cast<Token>(next) : token_of(made, "makes a token");
    merges_.push_back({left_token, right_token, last});
    const auto index = static_cast<int32_t>(i);
    const bool is_new =
        merge_of_pair_.insert(pair_of(index), index, [this](int32_t m) { return pair_of(m); });
    if (!is_new) fail("is there twice");
  }
}

bool ByteBpe::is_part(size_t token) const {
  return types_[token] == PieceType::normal || types_[token] == PieceType::user_defined;
}

Token ByteBpe::find(std::string_view text) const {
  const Token token =
      by_text_.find(text, [&](int32_t i) { return texts_[static_cast<size_t>(i)]; });
  return token >= 0 && is_part(static_cast<size_t>(token)) ? token : -1;
}

uint64_t ByteBpe::pair_of(int32_t merge) const {
  const auto& [left, right, merged] = merges_[static_cast<size_t>(merge)];
  return pair_key(left, right);
}

void ByteBpe::append_bytes(Token token, std::string& out) const {
  const auto i = static_cast<size_t>(token);
  if (types_[i] == PieceType::normal) {
    for_each_spelled_byte(texts_[i], [&](char byte) { out += byte; });
  } else if (types_[i] == PieceType::user_defined) {
    out += texts_[i];
  }
}

void ByteBpe::encode(std::string_view text, std::vector<Token>& out) const {
  std::string repaired;
  if (!is_utf8(text)) {
    append_repaired(repaired, text, true);
    text = repaired;
  }
  if (normalizes_ && !is_surely_nfc(text)) {
    repaired = nfc(text);
    text = repaired;
  }
  Scratch scratch;
  pretokenizer_->split(text, [&](std::string_view word) {
    if (pretokenizer_->keeps_whole_words() && word.size() <= max_text_) {
      spell(word, scratch.spelling);
      if (const Token whole = find(scratch.spelling); whole >= 0) {
        out.push_back(whole);
        return;
      }
    }
    for (; !word.empty(); word.remove_prefix(std::min(word.size(), max_word_bytes))) {
      merge(word.substr(0, max_word_bytes), scratch, out);
    }
  });
}

void ByteBpe::merge(std::string_view word, Scratch& scratch, std::vector<Token>& out) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<uint64_t>& queue = scratch.queue;
  symbols.clear();
  queue.clear();
  for (const char c : word) {
    const Token token = byte_tokens_[static_cast<unsigned char>(c)];
    if (token < 0) continue;
    const auto i = static_cast<uint32_t>(symbols.size());
    symbols.push_back({token, i == 0 ? no_neighbour : i - 1, i + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = no_neighbour;

  // Entries are (merge, symbol) in one number: the first merge comes out first, at its leftmost
  // place. They are not removed when their symbols change, but checked when they come out.
  const auto enqueue = [&](uint32_t left) {
    const Symbol& symbol = symbols[left];
    if (symbol.next == no_neighbour) return false;
    const int32_t found = merge_of_pair_.find(pair_key(symbol.token, symbols[symbol.next].token),
                                              [this](int32_t m) { return pair_of(m); });
    if (found < 0) return false;
    queue.push_back(static_cast<uint64_t>(found) << 32 | left);
    return true;
  };
  for (uint32_t i = 0; i < symbols.size(); ++i) enqueue(i);
  std::ranges::make_heap(queue, std::greater());
  while (!queue.empty()) {
    std::ranges::pop_heap(queue, std::greater());
    const uint64_t top = queue.back();
    queue.pop_back();
    const Merge& best = merges_[top >> 32];
    const auto at = static_cast<uint32_t>(top);
    Symbol& left = symbols[at];
    if (left.token != best.left || left.next == no_neighbour) continue;
    Symbol& right = symbols[left.next];
    if (right.token != best.right) continue;
    left.token = best.merged;
    right.token = -1;
    left.next = right.next;
    if (left.next != no_neighbour) symbols[left.next].previous = at;
    if (enqueue(at)) std::ranges::push_heap(queue, std::greater());
    if (left.previous != no_neighbour && enqueue(left.previous)) {
      std::ranges::push_heap(queue, std::greater());
    }
  }
  for (uint32_t i = 0; i != no_neighbour; i = symbols[i].next) out.push_back(symbols[i].token);
}

}  // namespace vga
