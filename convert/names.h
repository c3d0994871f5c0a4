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

/// One --skip: tensors in whose name the regex is found are left out.
class Skip {
 public:
  explicit Skip(std::string_view text);

  bool matches(const std::string& name) const;

 private:
  std::string text_;
  std::regex regex_;
};

/// What the user says about names.
struct NameRules {
  std::vector<Skip> skips;
  std::vector<Rename> renames;  // applied in order
};

/// A tensor's name in a checkpoint without the parts that training wrappers put into it
/// ("_orig_mod", "_fsdp_wrapped_module", "module"), wherever they stand.
std::string unwrapped_name(std::string_view given);

/// What stands before the names of Hugging Face's model in the names of a checkpoint, as in
/// "base_model.model.model.embed_tokens.weight" where the model was a part of another module; empty
/// if nothing does, or if there is more than one model.
std::string common_prefix(const std::vector<std::string>& names);

/// `name` after each of `renames`.
std::string renamed(std::string name, const std::vector<Rename>& renames);

/// llama.cpp's name for Hugging Face's: "blk.0.attn_q.weight" for
/// "model.layers.0.self_attn.q_proj.weight"; nullopt for a name that no model of ours has.
std::optional<std::string> gguf_name(std::string_view name);

/// The name that gguf_name() turns into `name`.
std::string hugging_face_name(std::string_view name);

/// Whether a tensor holds nothing that the model needs: RoPE frequencies follow from the config.
bool is_redundant(std::string_view name);

/// Whether it is a part of a low-rank adapter, as PEFT names them.
bool is_adapter(std::string_view name);

}  // namespace vga
