#include "names.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "vga/error.h"

namespace vga {
namespace {

// std::regex recurses once per character: long names would overflow the stack.
constexpr size_t max_name = 512;

using NamePair = std::pair<std::string_view, std::string_view>;
constexpr std::array<NamePair, 4> model_names = {
    {{"model.embed_tokens.weight", "token_embd.weight"},
     {"model.norm.weight", "output_norm.weight"},
     {"lm_head.weight", "output.weight"},
     {"rope_freqs.weight",
      "rope_freqs.weight"}}};  // no checkpoint has it: open_checkpoint() adds it
constexpr std::array<NamePair, 11> block_names = {
    {{"input_layernorm.weight", "attn_norm.weight"},
     {"self_attn.q_proj.weight", "attn_q.weight"},
     {"self_attn.k_proj.weight", "attn_k.weight"},
     {"self_attn.v_proj.weight", "attn_v.weight"},
     {"self_attn.gate_proj.weight", "attn_gate.weight"},
     {"self_attn.gate_proj.bias", "attn_gate.bias"},
     {"self_attn.o_proj.weight", "attn_output.weight"},
     {"post_attention_layernorm.weight", "ffn_norm.weight"},
     {"mlp.gate_proj.weight", "ffn_gate.weight"},
     {"mlp.up_proj.weight", "ffn_up.weight"},
     {"mlp.down_proj.weight", "ffn_down.weight"}}};
constexpr std::string_view block_prefix = "model.layers.";
constexpr std::string_view gguf_block_prefix = "blk.";

/// Parts of names that say how a module was wrapped, not what it is: by torch.compile, by
/// activation checkpointing, FSDP, DDP, and by PEFT around what an adapter was merged into.
constexpr std::array<std::string_view, 5> wrappers = {
    "_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "module.", "base_layer."};

void check_length(const std::string& name) {
  if (name.size() <= max_name) return;
  throw Error("tensor '" + name.substr(0, 64) + "...'",
              "a name of " + std::to_string(name.size()) + " bytes is too long for a regex");
}

std::regex compile(const std::string& pattern, const std::string& where) {
  if (pattern.size() > max_name) throw Error(where, "the regex is too long");
  try {
    return std::regex(pattern, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw Error(where, std::string("not a regular expression: ") + error.what());
  }
}

/// "0" or a number without leading zeros.
bool is_index(std::string_view text) {
  return !text.empty() && text.size() <= 4 && (text.size() == 1 || text[0] != '0') &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

Rename::Rename(std::string_view text) : text_(text) {
  const std::string where = "--rename '" + text_ + "'";
  const size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0) {
    throw Error(where, "wanted REGEX=REPLACEMENT");
  }
  regex_ = compile(std::string(text.substr(0, equals)), where);
  replacement_ = text.substr(equals + 1);
}

std::string Rename::apply(const std::string& name) const {
  try {
    return std::regex_replace(name, regex_, replacement_);
  } catch (const std::regex_error& error) {
    throw Error("--rename '" + text_ + "'", "cannot match '" + name + "': " + error.what());
  }
}

Skip::Skip(std::string_view text) : text_(text), regex_(compile(text_, "--skip '" + text_ + "'")) {}

bool Skip::matches(const std::string& name) const {
  check_length(name);
  try {
    return std::regex_search(name, regex_);
  } catch (const std::regex_error& error) {
    throw Error("--skip '" + text_ + "'", "cannot match '" + name + "': " + error.what());
  }
}

std::string unwrapped_name(std::string_view given) {
  std::string name;
  while (!given.empty()) {
    const size_t dot = given.find('.');
    const std::string_view part = given.substr(0, dot == given.npos ? dot : dot + 1);
    if (std::ranges::find(wrappers, part) == wrappers.end()) name += part;
    given.remove_prefix(part.size());
  }
  return name;
}

std::string common_prefix(const std::vector<std::string>& names) {
  const std::string_view embedding = model_names[0].first;
  const std::string* found = nullptr;
  for (const std::string& name : names) {
    if (!name.ends_with(embedding)) continue;
    if (found != nullptr) return {};
    found = &name;
  }
  if (found == nullptr) return {};
  const std::string prefix = found->substr(0, found->size() - embedding.size());
  return prefix.ends_with('.') ? prefix : "";
}

std::string renamed(std::string name, const std::vector<Rename>& renames) {
  for (const Rename& rename : renames) {
    check_length(name);
    name = rename.apply(name);
  }
  return name;
}

std::optional<std::string> gguf_name(std::string_view name) {
  const auto* whole = std::ranges::find(model_names, name, &NamePair::first);
  if (whole != model_names.end()) return std::string(whole->second);
  if (!name.starts_with(block_prefix)) return std::nullopt;
  name.remove_prefix(block_prefix.size());
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos || !is_index(name.substr(0, dot))) return std::nullopt;
  const auto* part = std::ranges::find(block_names, name.substr(dot + 1), &NamePair::first);
  if (part == block_names.end()) return std::nullopt;
  return std::string(gguf_block_prefix) + std::string(name.substr(0, dot)) + "." +
         std::string(part->second);
}

std::string hugging_face_name(std::string_view name) {
  const auto* whole = std::ranges::find(model_names, name, &NamePair::second);
  if (whole != model_names.end()) return std::string(whole->first);
  assert(name.starts_with(gguf_block_prefix));
  name.remove_prefix(gguf_block_prefix.size());
  const size_t dot = name.find('.');
  const auto* part = std::ranges::find(block_names, name.substr(dot + 1), &NamePair::second);
  assert(part != block_names.end());
  return std::string(block_prefix) + std::string(name.substr(0, dot + 1)) +
         std::string(part->first);
}

bool is_redundant(std::string_view name) {
  constexpr std::array<std::string_view, 4> buffers = {
      "rotary_emb.inv_freq", "rotary_emb.original_inv_freq", "rotary_emb.cos_cached",
      "rotary_emb.sin_cached"};
  return std::ranges::any_of(buffers, [&](std::string_view end) { return name.ends_with(end); });
}

bool is_adapter(std::string_view name) {
  return name.find(".lora_") != name.npos;
}

}  // namespace vga
