#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vga {

/// What happens to a tensor on its way from a checkpoint into a GGUF file, and to its bias.
enum class Transform {
  none,
  transposed,  // the checkpoint has (inputs, outputs)
  rotated,     // rows of each head from half-split to adjacent pairs, where the family has those
  plus_one,    // the checkpoint has what is added to 1
  heads_together,  // rows (head, of q, k and v) to (of q, k and v, head)
  from_third_row,  // the checkpoint has two rows more in front
  first_half,      // of each expert's rows
  second_half,
  single_row,  // a matrix of one row is a vector
  // Of delta nets. Value heads stand key head by key head in the checkpoint; where the family has
  // them otherwise (DeltaNet::grouped), the last rows or elements, which are theirs, change places.
  value_heads,
  value_columns,  // the same of columns
  convolution,    // value_heads of (columns, 1, taps)
  negative_exp,   // value_heads, and x is -exp(x)
  key_groups,     // rows of each key head (q, k, of its values, of its gates): q, k and values
  gate_groups,    // and the gates of the same
};

/// One row of a table: "self_attn.q_proj" is "attn_q", both with ".weight" or ".bias" behind. A '#'
/// is the number of an expert.
struct NameRow {
  std::string_view from;
  std::string_view to;
  Transform transform = Transform::none;
  bool whole = false;  // nothing stands behind the names
};

/// What transformers calls the tensors of a type of model, and what they are called in a GGUF file.
struct NameTable {
  std::string_view body;           // stands before all names but that of the head
  std::string_view block;          // stands before the number of a layer
  std::span<const NameRow> model;  // the embedding first
  std::span<const NameRow> blocks;
  NameRow head;
};

/// The table for a `model_type` of config.json, of which config_json.cpp knows the others.
const NameTable& name_table(std::string_view model_type);

/// The name and the transformation that a tensor has in the GGUF file.
struct Target {
  std::string name;
  Transform transform;
  std::optional<size_t> expert = {};  // whose part it is of a tensor of all experts
};

/// Finds out what a checkpoint's names mean. The body of the model may have another name than
/// transformers gives it, or none, where it was a part of something else:
/// "base_model.model.model.embed_tokens.weight", "language_model.model.embed_tokens.weight".
class NameMap {
 public:
  NameMap(const NameTable& table, const std::vector<std::string>& names);

  /// What the tensor of this name becomes: nothing if no model of this type has it, several if
  /// weights that it holds together are apart in the file.
  std::vector<Target> find(std::string_view name) const;
  /// The name that find() takes for `name`, with a '#' for the number of an expert.
  std::string source_of(std::string_view gguf_name) const;

 private:
  const NameTable& table_;
  std::string body_;
};

/// Whether a tensor holds nothing that the language model needs: what follows from the config, as
/// RoPE's frequencies and masks do, layers that draft tokens, and what sees or hears.
bool is_redundant(std::string_view name);

/// Whether it is a part of a low-rank adapter, as PEFT names them.
bool is_adapter(std::string_view name);

}  // namespace vga
