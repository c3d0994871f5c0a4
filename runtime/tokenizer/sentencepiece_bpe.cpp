#include "tokenizer/sentencepiece_bpe.h"

#include <algorithm>
#include <cassert>

#include "base/text.h"

namespace vga {
namespace {

constexpr uint32_t no_symbol = UINT32_MAX;

/// "▁" for every space, and one before all for the prefix.
std::string spelled(std::string_view text, bool prefix) {
  std::string out;
  out.reserve(text.size() + text.size() / 2 + space_symbol.size());
  if (prefix && !text.empty()) out += space_symbol;
  for (size_t begin = 0; begin < text.size();) {
    const size_t space = std::min(text.find(' ', begin), text.size());
    out += text.substr(begin, space - begin);
    if (space < text.size()) out += space_symbol;
    begin = space + 1;
  }
  return out;
}

/// Bytes of the UTF-8 character that starts with `first`.
size_t character_bytes(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

}  // namespace

bool SentencePieceBpe::fits(const SentencePieceModel& model) {
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    if (model.pieces[i].type == PieceType::user_defined && !model.is_added(i)) return false;
  }
  return model.algorithm == SentencePieceModel::Algorithm::bpe && model.charsmap.empty() &&
         model.escape_whitespaces && !model.treat_whitespace_as_suffix &&
         !model.remove_extra_whitespaces;
}

SentencePieceBpe::SentencePieceBpe(const SentencePieceModel& model) : model_(&model) {
  assert(fits(model));
  if (model.byte_fallback) byte_tokens_.resize(256);
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const SentencePieceModel::Piece& entry = model.pieces[i];
    const auto token = static_cast<Token>(i);
    if (entry.type == PieceType::unknown) unknown_ = token;
    if (entry.type == PieceType::byte) {
      byte_tokens_[static_cast<unsigned char>(*byte_of_piece(entry.text))] = token;
    }
  }
}

Token SentencePieceBpe::find(std::string_view text) const {
  const Token token = model_->find(text);
  if (token < 0) return -1;
  const PieceType type = piece(token).type;
  const bool is_part =
      type == PieceType::normal || type == PieceType::user_defined || type == PieceType::unused;
  return is_part ? token : -1;
}

void SentencePieceBpe::encode(std::string_view text, bool prefix, std::vector<Token>& out) const {
  std::string repaired;
  if (!is_utf8(text)) {
    append_repaired(repaired, text, true);
    text = repaired;
  }
  const std::string spelling = spelled(text, prefix);
  std::vector<Symbol> symbols;
  for (std::string_view rest = spelling; !rest.empty();) {
    const size_t size = character_bytes(rest[0]);
    const auto i = static_cast<uint32_t>(symbols.size());
    symbols.push_back({rest.substr(0, size), i == 0 ? no_symbol : i - 1, i + 1});
    rest.remove_prefix(size);
  }
  if (symbols.empty()) return;
  symbols.back().next = no_symbol;

  UnusedParts unused;
  join(symbols, unused);
  bool after_unknown = false;
  for (uint32_t i = 0; i != no_symbol; i = symbols[i].next) {
    emit(symbols[i].text, unused, after_unknown, out);
  }
}

void SentencePieceBpe::join(std::vector<Symbol>& symbols, UnusedParts& unused) const {
  // The best score comes out first, of equal ones the leftmost. Entries are not removed when their
  // symbols change, but checked when they come out.
  const auto comes_later = [](const Join& a, const Join& b) {
    return a.score < b.score || (a.score == b.score && a.left > b.left);
  };
  std::vector<Join> queue;
  const auto enqueue = [&](uint32_t left) {
    const uint32_t right = symbols[left].next;
    if (right == no_symbol) return false;
    const Parts parts = {symbols[left].text, symbols[right].text};
    const std::string_view both(parts.left.data(), parts.left.size() + parts.right.size());
    const Token token = find(both);
    if (token < 0) return false;
    queue.push_back({piece(token).score, left, right, both.size()});
    if (piece(token).type == PieceType::unused) unused[both] = parts;
    return true;
  };
  for (uint32_t i = 0; i < symbols.size(); ++i) enqueue(i);
  std::ranges::make_heap(queue, comes_later);
  while (!queue.empty()) {
    std::ranges::pop_heap(queue, comes_later);
    const Join top = queue.back();
    queue.pop_back();
    Symbol& left = symbols[top.left];
    Symbol& right = symbols[top.right];
    if (left.text.empty() || right.text.empty()) continue;
    if (left.text.size() + right.text.size() != top.size) continue;
    left.text = {left.text.data(), top.size};
    right.text = {};
    left.next = right.next;
    if (left.next != no_symbol) symbols[left.next].previous = top.left;
    if (enqueue(top.left)) std::ranges::push_heap(queue, comes_later);
    if (left.previous != no_symbol && enqueue(left.previous)) {
      std::ranges::push_heap(queue, comes_later);
    }
  }
}

void SentencePieceBpe::emit(std::string_view symbol, const UnusedParts& unused, bool& after_unknown,
                            std::vector<Token>& out) const {
  const Token token = find(symbol);
  if (token < 0) {
    for (const char byte : symbol) {
      if (model_->byte_fallback) out.push_back(byte_tokens_[static_cast<unsigned char>(byte)]);
    }
    // What is unknown is one token, however long it is.
    if (!model_->byte_fallback && !after_unknown) out.push_back(unknown_);
    after_unknown = true;
    return;
  }
  const auto parts = unused.find(symbol);
  if (piece(token).type == PieceType::unused && parts != unused.end()) {
    emit(parts->second.left, unused, after_unknown, out);
    emit(parts->second.right, unused, after_unknown, out);
    return;
  }
  after_unknown = false;
  out.push_back(token);
}

}  // namespace vga
