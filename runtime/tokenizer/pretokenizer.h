#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vga {

/// Cuts a text into the words that byte-level BPE never merges across, by the regular expressions
/// of the tokenizer that the model was trained with. Immutable, usable from many threads.
class Pretokenizer {
 public:
  /// By its name in `tokenizer.ggml.pre`; nullopt for one we do not know.
  static std::optional<Pretokenizer> find(std::string_view name);
  /// The name of the rules that are these regular expressions, each cutting what the last one left,
  /// as Hugging Face's files spell them; nullopt if there are none.
  static std::optional<std::string_view> name_of(std::span<const std::string> expressions,
                                                 bool keeps_whole_words);
  /// The names that find() knows: "gpt-2, llama-bpe, ...".
  static std::string names();

  Pretokenizer(Pretokenizer&&) noexcept;
  Pretokenizer& operator=(Pretokenizer&&) noexcept;
  ~Pretokenizer();

  /// Whether a word that is a token as a whole is that token, whatever merges would make of it.
  bool keeps_whole_words() const { return keeps_whole_words_; }
  /// Whether texts start with the bos token where the file does not say.
  bool adds_bos() const { return adds_bos_; }

  /// Whether text is normalized to NFC first where the file does not say.
  bool normalizes() const { return normalizes_; }

  /// Calls `word` with each word of `text`, in order; together they are the text. `text` is UTF-8.
  void split(std::string_view text, const std::function<void(std::string_view)>& word) const;

 private:
  class Expression;
  class Matcher;
  Pretokenizer();

  std::vector<std::unique_ptr<const Expression>> expressions_;  // each cuts what the last one left
  bool keeps_whole_words_ = false;
  bool adds_bos_ = false;
  bool normalizes_ = false;
};

}  // namespace vga
