#pragma once

#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

namespace vga {

/// One --rename: what matches the regex (ECMAScript) in a tensor's name is replaced, $1 is a group.
class Rename {
 public:
  /// From "REGEX=REPLACEMENT", split at the last '='. An Error if it has none or the regex is bad.
  explicit Rename(std::string_view text);

  std::string apply(const std::string& name) const;

 private:
  std::string text_;
  std::regex regex_;
  std::string replacement_;
};

/// A tensor's name in a checkpoint without what training wrappers put before it (`_orig_mod.`,
/// `module.`), then renamed by each of `renames` in order.
std::string canonical_name(std::string_view given, const std::vector<Rename>& renames);

/// llama.cpp's name for Hugging Face's: "blk.0.attn_q.weight" for
/// "model.layers.0.self_attn.q_proj.weight"; nullopt for a name that no model of ours has.
std::optional<std::string> gguf_name(std::string_view name);

/// The name that gguf_name() turns into `name`.
std::string hugging_face_name(std::string_view name);

/// Whether a tensor holds nothing that the model needs: RoPE frequencies follow from the config.
bool is_redundant(std::string_view name);

}  // namespace vga
