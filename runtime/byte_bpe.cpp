#include "byte_bpe.h"

#include <algorithm>
#include <functional>

#include "config.h"
#include "error.h"
#include "text.h"

namespace vga {
namespace {

using PieceType = SentencePieceModel::PieceType;

constexpr std::string_view pre_key = "tokenizer.ggml.pre";
constexpr std::string_view tokens_key = "tokenizer.ggml.tokens";
constexpr std::string_view merges_key = "tokenizer.ggml.merges";
constexpr std::string_view types_key = "tokenizer.ggml.token_type";
constexpr std::string_view bos_key = "tokenizer.ggml.bos_token_id";
constexpr std::string_view eos_key = "tokenizer.ggml.eos_token_id";
constexpr std::string_view eot_key = "tokenizer.ggml.eot_token_id";
constexpr std::string_view unknown_key = "tokenizer.ggml.unknown_token_id";
constexpr std::string_view padding_key = "tokenizer.ggml.padding_token_id";
constexpr std::string_view add_bos_key = "tokenizer.ggml.add_bos_token";

constexpr std::string_view replacement_character = "\uFFFD";

/// A longer word is merged in stretches of this size, so that memory stays small whatever the text.
constexpr size_t max_word_bytes = 1 << 20;
constexpr uint32_t none = UINT32_MAX;

std::string where(const Gguf& gguf, std::string_view key) {
  return gguf.file_name() + ": key '" + std::string(key) + "'";
}

std::string entry(std::string_view what, size_t index, std::string_view text) {
  return std::string(what) + " " + std::to_string(index) + " '" + std::string(text.substr(0, 40)) +
         "' ";
}

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

/// The bytes that `spelling` stands for; nullopt if some character of it stands for none.
std::optional<std::string> spelled_bytes(std::string_view spelling) {
  std::string bytes;
  while (!spelling.empty()) {
    const int length = utf8_length(spelling);
    const auto lead = static_cast<unsigned char>(spelling[0]);
    size_t code = lead;
    if (length == 2) code = (lead & 0x1Fu) << 6 | (static_cast<unsigned char>(spelling[1]) & 0x3Fu);
    if (length < 1 || length > 2 || code >= byte_of_code.size() || byte_of_code[code] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(byte_of_code[code]);
    spelling.remove_prefix(static_cast<size_t>(length));
  }
  return bytes;
}

PieceType piece_type(int64_t number, std::string_view text, const std::string& key, size_t index) {
  if (number < 1 || number > 5) {
    throw Error(key, entry("token", index, text) + "wanted a type from 1 to 5, found " +
                         std::to_string(number));
  }
  const auto type = static_cast<PieceType>(number);
  if (type == PieceType::unknown || (type == PieceType::user_defined && looks_like_control(text))) {
    return PieceType::control;
  }
  return type;
}

std::optional<Token> read_id(const Gguf& gguf, std::string_view key, size_t vocab) {
  const auto id = gguf.integer(key);
  if (!id) return std::nullopt;
  if (*id >= vocab) {
    throw Error(where(gguf, key), "wanted a token id below " + std::to_string(vocab) + ", found " +
                                      std::to_string(*id));
  }
  return static_cast<Token>(*id);
}

std::string replace_invalid(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const int length = utf8_length(text);
    const size_t used = length > 0 ? static_cast<size_t>(length) : 1;
    out += length > 0 ? text.substr(0, used) : replacement_character;
    text.remove_prefix(used);
  }
  return out;
}

uint64_t pair_key(Token left, Token right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint64_t>(right);
}

}  // namespace

ByteBpe::ByteBpe(const Gguf& gguf) {
  const std::string_view pre = gguf.required(pre_key, gguf.string(pre_key));
  pretokenizer_ = Pretokenizer::find(pre);
  if (!pretokenizer_) {
    throw Error(
        where(gguf, pre_key),
        "'" + std::string(pre) + "' is not supported, wanted one of " + Pretokenizer::names());
  }
  read_tokens(gguf);
  read_merges(gguf);
  bos_ = read_id(gguf, bos_key, pieces_.size());
  eos_ = read_id(gguf, eos_key, pieces_.size());
  eot_ = read_id(gguf, eot_key, pieces_.size());
  read_id(gguf, unknown_key, pieces_.size());
  read_id(gguf, padding_key, pieces_.size());
  adds_bos_ = gguf.boolean(add_bos_key).value_or(pretokenizer_->adds_bos());
}

void ByteBpe::read_tokens(const Gguf& gguf) {
  const std::string key = where(gguf, tokens_key);
  const auto tokens = gguf.required(tokens_key, gguf.strings(tokens_key));
  const auto types = gguf.required(types_key, gguf.integers(types_key));
  if (tokens.empty() || tokens.size() > max_vocab) {
    throw Error(key, "wanted 1 to " + std::to_string(max_vocab) + " tokens, found " +
                         std::to_string(tokens.size()));
  }
  if (types.size() != tokens.size()) {
    throw Error(where(gguf, types_key), "wanted one value for each of the " +
                                            std::to_string(tokens.size()) + " tokens, found " +
                                            std::to_string(types.size()));
  }
  pieces_.reserve(tokens.size());
  bytes_.reserve(tokens.size());
  by_bytes_ = FlatMap<std::string_view>(tokens.size());
  FlatMap<std::string_view> texts(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string_view text = tokens[i];
    const auto fail = [&](const std::string& what) {
      throw Error(key, entry("token", i, text) + what);
    };
    if (text.empty()) fail("is empty");
    if (text.size() > max_piece_bytes) {
      fail("has " + std::to_string(text.size()) + " bytes, wanted at most " +
           std::to_string(max_piece_bytes));
    }
    if (!is_utf8(text)) fail("is not UTF-8");
    if (!texts.insert(text, static_cast<int32_t>(i))) fail("is there twice");

    const PieceType type = piece_type(types[i], text, where(gguf, types_key), i);
    pieces_.push_back({std::string(text), 0.f, type});
    std::string& bytes = bytes_.emplace_back();
    if (type == PieceType::normal) {
      auto spelled = spelled_bytes(text);
      if (!spelled) fail("has a character that stands for no byte");
      bytes = *std::move(spelled);
    } else if (type == PieceType::user_defined) {
      bytes = text;
    }
    // A user-defined token may spell the bytes of a normal one, "  " and "ĠĠ"; never mind which.
    if (!bytes.empty()) by_bytes_.insert(bytes, static_cast<Token>(i));
  }

  for (size_t byte = 0; byte < byte_tokens_.size(); ++byte) {
    const char c = static_cast<char>(byte);
    byte_tokens_[byte] = by_bytes_.find({&c, 1});
    const bool needed = (byte >= 0x20 && byte < 0x7F) || c == '\n' || c == '\t';
    if (needed && byte_tokens_[byte] < 0) {
      throw Error(key, "wanted a token for every ASCII character, found none for byte " +
                           std::to_string(byte));
    }
  }
}

void ByteBpe::read_merges(const Gguf& gguf) {
  const auto merges = gguf.required(merges_key, gguf.strings(merges_key));
  const std::string key = where(gguf, merges_key);
  if (merges.size() > INT32_MAX) throw Error(key, "has too many entries");
  merges_.reserve(merges.size());
  merge_of_pair_ = FlatMap<uint64_t>(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string_view text = merges[i];
    const auto fail = [&](const std::string& what) {
      throw Error(key, entry("merge", i, text) + what);
    };
    const auto find = [&](const std::string& bytes, const char* part) {
      const Token token = by_bytes_.find(bytes);
      if (token < 0) fail(std::string(part) + " that is not in the vocabulary");
      return token;
    };
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == text.size() ||
        text.find(' ', space + 1) != std::string_view::npos) {
      fail("is not two tokens with a space between them");
    }
    const auto left = spelled_bytes(text.substr(0, space));
    const auto right = spelled_bytes(text.substr(space + 1));
    if (!left || !right) fail("has a character that stands for no byte");
    const Merge merge{find(*left, "has a left part"), find(*right, "has a right part"),
                      find(*left + *right, "makes a token")};
    if (!merge_of_pair_.insert(pair_key(merge.left, merge.right), static_cast<int32_t>(i))) {
      fail("is there twice");
    }
    merges_.push_back(merge);
  }
}

void ByteBpe::encode(std::string_view text, std::vector<Token>& out) const {
  std::string replaced;
  if (!is_utf8(text)) text = replaced = replace_invalid(text);
  Scratch scratch;
  pretokenizer_->split(text, [&](std::string_view word) {
    if (pretokenizer_->keeps_whole_words()) {
      if (const Token whole = by_bytes_.find(word); whole >= 0) {
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
    symbols.push_back({token, i == 0 ? none : i - 1, i + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = none;

  // Entries are (merge, symbol) in one number: the first merge comes out first, at its leftmost
  // place. They are not removed when their symbols change, but checked when they come out.
  const auto enqueue = [&](uint32_t left) {
    const Symbol& symbol = symbols[left];
    if (symbol.next == none) return false;
    const int32_t found = merge_of_pair_.find(pair_key(symbol.token, symbols[symbol.next].token));
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
    if (left.token != best.left || left.next == none) continue;
    Symbol& right = symbols[left.next];
    if (right.token != best.right) continue;
    left.token = best.merged;
    right.token = -1;
    left.next = right.next;
    if (left.next != none) symbols[left.next].previous = at;
    if (enqueue(at)) std::ranges::push_heap(queue, std::greater());
    if (left.previous != none && enqueue(left.previous)) {
      std::ranges::push_heap(queue, std::greater());
    }
  }
  for (uint32_t i = 0; i != none; i = symbols[i].next) out.push_back(symbols[i].token);
}

}  // namespace vga
