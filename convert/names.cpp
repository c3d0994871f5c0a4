#include "names.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

namespace vga {
namespace {

// -- Tables ---------------------------------------------------------------------------------------

template <size_t n, size_t m>
constexpr std::array<NameRow, n + m> both(const std::array<NameRow, n>& a,
                                          const std::array<NameRow, m>& b) {
  std::array<NameRow, n + m> rows;
  std::copy(b.begin(), b.end(), std::copy(a.begin(), a.end(), rows.begin()));
  return rows;
}

constexpr std::array llama_model = {NameRow{"embed_tokens", "token_embd"},
                                    NameRow{"norm", "output_norm"}};
/// What most have in each block, beside norms that stand elsewhere in each.
constexpr std::array usual_attention = {
    NameRow{"self_attn.q_proj", "attn_q", Transform::rotated},
    NameRow{"self_attn.k_proj", "attn_k", Transform::rotated},
    NameRow{"self_attn.v_proj", "attn_v"},
    NameRow{"self_attn.q_norm", "attn_q_norm"},
    NameRow{"self_attn.k_norm", "attn_k_norm"},
    NameRow{"self_attn.gate_proj", "attn_gate"},
    NameRow{"self_attn.o_proj", "attn_output"},
};
constexpr std::array usual_blocks =
    both(usual_attention,
         std::array{NameRow{"mlp.gate_proj", "ffn_gate"}, NameRow{"mlp.up_proj", "ffn_up"},
                    NameRow{"mlp.down_proj", "ffn_down"}});

constexpr std::array llama_blocks =
    both(usual_blocks, std::array{NameRow{"input_layernorm", "attn_norm"},
                                  NameRow{"post_attention_layernorm", "ffn_norm"}});
constexpr NameTable llama = {"model.", "layers.", llama_model, llama_blocks, {"lm_head", "output"}};

constexpr std::array gemma_model = {NameRow{"embed_tokens", "token_embd"},
                                    NameRow{"norm", "output_norm", Transform::plus_one}};
constexpr std::array gemma_blocks = {
    NameRow{"input_layernorm", "attn_norm", Transform::plus_one},
    NameRow{"self_attn.q_proj", "attn_q"},
    NameRow{"self_attn.k_proj", "attn_k"},
    NameRow{"self_attn.v_proj", "attn_v"},
    NameRow{"self_attn.q_norm", "attn_q_norm", Transform::plus_one},
    NameRow{"self_attn.k_norm", "attn_k_norm", Transform::plus_one},
    NameRow{"self_attn.gate_proj", "attn_gate"},
    NameRow{"self_attn.o_proj", "attn_output"},
    NameRow{"post_attention_layernorm", "post_attention_norm", Transform::plus_one},
    NameRow{"pre_feedforward_layernorm", "ffn_norm", Transform::plus_one},
    NameRow{"mlp.gate_proj", "ffn_gate"},
    NameRow{"mlp.up_proj", "ffn_up"},
    NameRow{"mlp.down_proj", "ffn_down"},
    NameRow{"post_feedforward_layernorm", "post_ffw_norm", Transform::plus_one},
};
constexpr NameTable gemma = {"model.", "layers.", gemma_model, gemma_blocks, {"lm_head", "output"}};

constexpr std::array phi3_blocks = {
    NameRow{"input_layernorm", "attn_norm"},
    NameRow{"self_attn.qkv_proj", "attn_qkv"},
    NameRow{"self_attn.gate_proj", "attn_gate"},
    NameRow{"self_attn.o_proj", "attn_output"},
    NameRow{"post_attention_layernorm", "ffn_norm"},
    NameRow{"mlp.gate_up_proj", "ffn_up"},
    NameRow{"mlp.down_proj", "ffn_down"},
};
constexpr NameTable phi3 = {"model.", "layers.", llama_model, phi3_blocks, {"lm_head", "output"}};

constexpr std::array olmo2_blocks =
    both(usual_blocks, std::array{NameRow{"post_attention_layernorm", "post_attention_norm"},
                                  NameRow{"post_feedforward_layernorm", "post_ffw_norm"}});
constexpr NameTable olmo2 = {"model.", "layers.", llama_model, olmo2_blocks, {"lm_head", "output"}};

constexpr std::array gpt2_model = {NameRow{"wte", "token_embd"}, NameRow{"wpe", "position_embd"},
                                   NameRow{"ln_f", "output_norm"}};
constexpr std::array gpt2_blocks = {
    NameRow{"ln_1", "attn_norm"},
    NameRow{"attn.c_attn", "attn_qkv", Transform::transposed},
    NameRow{"attn.gate_proj", "attn_gate"},
    NameRow{"attn.c_proj", "attn_output", Transform::transposed},
    NameRow{"ln_2", "ffn_norm"},
    NameRow{"mlp.c_fc", "ffn_up", Transform::transposed},
    NameRow{"mlp.c_proj", "ffn_down", Transform::transposed},
};
constexpr NameTable gpt2 = {"transformer.", "h.", gpt2_model, gpt2_blocks, {"lm_head", "output"}};

constexpr std::array gpt_neox_model = {NameRow{"embed_in", "token_embd"},
                                       NameRow{"final_layer_norm", "output_norm"}};
constexpr std::array gpt_neox_blocks = {
    NameRow{"input_layernorm", "attn_norm"},
    NameRow{"attention.query_key_value", "attn_qkv", Transform::heads_together},
    NameRow{"attention.gate_proj", "attn_gate"},
    NameRow{"attention.dense", "attn_output"},
    NameRow{"post_attention_layernorm", "ffn_norm"},
    NameRow{"mlp.dense_h_to_4h", "ffn_up"},
    NameRow{"mlp.dense_4h_to_h", "ffn_down"},
};
constexpr NameTable gpt_neox = {
    "gpt_neox.", "layers.", gpt_neox_model, gpt_neox_blocks, {"embed_out", "output"}};

constexpr std::array opt_model = {
    NameRow{"embed_tokens", "token_embd"},
    NameRow{"embed_positions", "position_embd", Transform::from_third_row},
    NameRow{"final_layer_norm", "output_norm"}};
constexpr std::array opt_blocks = {
    NameRow{"self_attn_layer_norm", "attn_norm"},
    NameRow{"self_attn.q_proj", "attn_q"},
    NameRow{"self_attn.k_proj", "attn_k"},
    NameRow{"self_attn.v_proj", "attn_v"},
    NameRow{"self_attn.gate_proj", "attn_gate"},
    NameRow{"self_attn.out_proj", "attn_output"},
    NameRow{"final_layer_norm", "ffn_norm"},
    NameRow{"fc1", "ffn_up"},
    NameRow{"fc2", "ffn_down"},
};
constexpr NameTable opt = {
    "model.decoder.", "layers.", opt_model, opt_blocks, {"lm_head", "output"}};

/// One by one, or all in one tensor.
constexpr std::array experts = {
    NameRow{"mlp.experts.#.gate_proj", "ffn_gate_exps"},
    NameRow{"mlp.experts.#.up_proj", "ffn_up_exps"},
    NameRow{"mlp.experts.#.down_proj", "ffn_down_exps"},
    NameRow{"mlp.experts.gate_up_proj", "ffn_gate_exps.weight", Transform::first_half, true},
    NameRow{"mlp.experts.gate_up_proj", "ffn_up_exps.weight", Transform::second_half, true},
    NameRow{"mlp.experts.down_proj", "ffn_down_exps.weight", Transform::none, true},
};

constexpr std::array qwen3_moe_blocks =
    both(both(usual_attention, experts), std::array{NameRow{"input_layernorm", "attn_norm"},
                                                    NameRow{"post_attention_layernorm", "ffn_norm"},
                                                    NameRow{"mlp.gate", "ffn_gate_inp"}});
constexpr NameTable qwen3_moe = {
    "model.", "layers.", llama_model, qwen3_moe_blocks, {"lm_head", "output"}};

constexpr std::array afmoe_blocks =
    both(both(usual_blocks, experts),
         std::array{
             NameRow{"input_layernorm", "attn_norm"},
             NameRow{"post_attention_layernorm", "post_attention_norm"},
             NameRow{"pre_mlp_layernorm", "ffn_norm"},
             NameRow{"mlp.router.gate", "ffn_gate_inp"},
             NameRow{"mlp.expert_bias", "exp_probs_b.bias", Transform::none, true},
             NameRow{"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
             NameRow{"mlp.shared_experts.up_proj", "ffn_up_shexp"},
             NameRow{"mlp.shared_experts.down_proj", "ffn_down_shexp"},
             NameRow{"post_mlp_layernorm", "post_ffw_norm"},
         });
constexpr NameTable afmoe = {"model.", "layers.", llama_model, afmoe_blocks, {"lm_head", "output"}};

/// Qwen3-Next's and Qwen3.5's.
constexpr std::array qwen_delta_blocks = both(
    experts, std::array{
                 NameRow{"input_layernorm", "attn_norm", Transform::plus_one},
                 NameRow{"self_attn.q_proj", "attn_q"},
                 NameRow{"self_attn.k_proj", "attn_k"},
                 NameRow{"self_attn.v_proj", "attn_v"},
                 NameRow{"self_attn.q_norm", "attn_q_norm", Transform::plus_one},
                 NameRow{"self_attn.k_norm", "attn_k_norm", Transform::plus_one},
                 NameRow{"self_attn.o_proj", "attn_output"},
                 NameRow{"linear_attn.conv1d", "ssm_conv1d", Transform::convolution},
                 NameRow{"linear_attn.A_log", "ssm_a", Transform::negative_exp, true},
                 NameRow{"linear_attn.dt_bias", "ssm_dt.bias", Transform::value_heads, true},
                 NameRow{"linear_attn.norm", "ssm_norm"},
                 NameRow{"linear_attn.out_proj", "ssm_out", Transform::value_columns},
                 NameRow{"post_attention_layernorm", "post_attention_norm", Transform::plus_one},
                 NameRow{"mlp.gate_proj", "ffn_gate"},
                 NameRow{"mlp.up_proj", "ffn_up"},
                 NameRow{"mlp.down_proj", "ffn_down"},
                 NameRow{"mlp.gate", "ffn_gate_inp"},
                 NameRow{"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
                 NameRow{"mlp.shared_expert.up_proj", "ffn_up_shexp"},
                 NameRow{"mlp.shared_expert.down_proj", "ffn_down_shexp"},
                 NameRow{"mlp.shared_expert_gate", "ffn_gate_inp_shexp", Transform::single_row},
             });
constexpr std::array qwen35_blocks = both(
    qwen_delta_blocks, std::array{
                           NameRow{"linear_attn.in_proj_qkv", "attn_qkv", Transform::value_heads},
                           NameRow{"linear_attn.in_proj_z", "attn_gate", Transform::value_heads},
                           NameRow{"linear_attn.in_proj_b", "ssm_beta", Transform::value_heads},
                           NameRow{"linear_attn.in_proj_a", "ssm_alpha", Transform::value_heads},
                       });
constexpr NameTable qwen35 = {
    "model.", "layers.", gemma_model, qwen35_blocks, {"lm_head", "output"}};
constexpr std::array qwen3_next_blocks = both(
    qwen_delta_blocks, std::array{
                           NameRow{"linear_attn.in_proj_qkvz", "attn_qkv", Transform::key_groups},
                           NameRow{"linear_attn.in_proj_qkvz", "attn_gate", Transform::gate_groups},
                           NameRow{"linear_attn.in_proj_ba", "ssm_ba"},
                       });
constexpr NameTable qwen3_next = {
    "model.", "layers.", gemma_model, qwen3_next_blocks, {"lm_head", "output"}};

/// Those whose names are not Llama's.
constexpr std::array<std::pair<std::string_view, const NameTable*>, 13> tables = {
    {{"qwen3_moe", &qwen3_moe},
     {"afmoe", &afmoe},
     {"qwen3_5_text", &qwen35},
     {"qwen3_5_moe_text", &qwen35},
     {"qwen3_next", &qwen3_next},
     {"gemma2", &gemma},
     {"gemma3_text", &gemma},
     {"phi3", &phi3},
     {"olmo2", &olmo2},
     {"olmo3", &olmo2},
     {"gpt2", &gpt2},
     {"gpt_neox", &gpt_neox},
     {"opt", &opt}}};

// -- Looking up -----------------------------------------------------------------------------------

constexpr std::string_view gguf_block = "blk.";
constexpr std::array<std::string_view, 2> suffixes = {".weight", ".bias"};

/// "0" or a number without leading zeros.
bool is_index(std::string_view text) {
  return !text.empty() && text.size() <= 4 && (text.size() == 1 || text[0] != '0') &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

/// A name in its parts: a prefix, the number of a layer if it has one, and a suffix if it has one
/// of `suffixes`.
struct Parts {
  std::string_view layer;  // empty outside of blocks
  std::string_view name;
  std::string_view suffix;

  std::string whole() const { return std::string(name).append(suffix); }
};

std::optional<Parts> split(std::string_view name, std::string_view block) {
  Parts parts{};
  for (const std::string_view suffix : suffixes) {
    if (name.ends_with(suffix)) parts.suffix = suffix;
  }
  name.remove_suffix(parts.suffix.size());
  if (name.starts_with(block)) {
    name.remove_prefix(block.size());
    const size_t dot = name.find('.');
    if (dot == name.npos || !is_index(name.substr(0, dot))) return std::nullopt;
    parts.layer = name.substr(0, dot);
    name.remove_prefix(dot + 1);
  }
  parts.name = name;
  return parts;
}

std::string joined(std::string_view block, const Parts& parts, const NameRow& row,
                   std::string_view name) {
  std::string whole;
  if (!parts.layer.empty()) whole.append(block).append(parts.layer).append(".");
  return whole.append(name).append(row.whole ? "" : parts.suffix);
}

/// A name with '#' for the first number in it, and that number.
std::pair<std::string, std::optional<size_t>> without_number(std::string_view name) {
  for (size_t at = 0; at < name.size();) {
    const size_t dot = std::min(name.find('.', at), name.size());
    const std::string_view part = name.substr(at, dot - at);
    if (is_index(part)) {
      std::string general(name);
      size_t number = 0;
      for (const char digit : part) number = number * 10 + static_cast<size_t>(digit - '0');
      return {general.replace(at, part.size(), "#"), number};
    }
    at = dot + 1;
  }
  return {std::string(name), std::nullopt};
}

}  // namespace

const NameTable& name_table(std::string_view model_type) {
  const auto* found = std::ranges::find(tables, model_type, &decltype(tables)::value_type::first);
  return found == tables.end() ? llama : *found->second;
}

NameMap::NameMap(const NameTable& table, const std::vector<std::string>& names)
    : table_(table), body_(table.body) {
  const std::string embedding = std::string(table.model[0].from) + ".weight";
  std::vector<std::string_view> found;
  for (const std::string_view name : names) {
    const std::string_view before =
        name.substr(0, name.size() - std::min(name.size(), embedding.size()));
    if (name.ends_with(embedding) && (before.empty() || before.ends_with('.')))
      found.push_back(before);
  }
  // More than one is more than one model: only what has the usual name is taken.
  if (found.size() == 1) body_ = found[0];
}

std::vector<Target> NameMap::find(std::string_view name) const {
  const std::string head = std::string(table_.head.from) + ".weight";
  // The head stands beside the body, whatever both are a part of.
  if (name.ends_with(head) && body_.starts_with(name.substr(0, name.size() - head.size()))) {
    return {Target{std::string(table_.head.to) + ".weight", table_.head.transform}};
  }
  if (!name.starts_with(body_)) return {};
  const auto parts = split(name.substr(body_.size()), table_.block);
  if (!parts) return {};
  const auto [general, expert] = without_number(parts->name);
  std::vector<Target> targets;
  for (const NameRow& row : parts->layer.empty() ? table_.model : table_.blocks) {
    const bool is_it =
        row.whole ? parts->whole() == row.from : general == row.from && !parts->suffix.empty();
    if (is_it) targets.push_back({joined(gguf_block, *parts, row, row.to), row.transform, expert});
  }
  return targets;
}

std::string NameMap::source_of(std::string_view gguf_name) const {
  const auto parts = split(gguf_name, gguf_block);
  assert(parts);
  if (parts->name == table_.head.to) {
    return std::string(table_.head.from) + std::string(parts->suffix);
  }
  for (const NameRow& row : parts->layer.empty() ? table_.model : table_.blocks) {
    if (row.to == (row.whole ? parts->whole() : parts->name)) {
      return body_ + joined(table_.block, *parts, row, row.from);
    }
  }
  // What the checkpoint would have to be called is not known for what its type never has.
  return std::string(gguf_name);
}

bool is_redundant(std::string_view name) {
  constexpr std::array<std::string_view, 8> buffers = {"rotary_emb.inv_freq",
                                                       "rotary_emb.original_inv_freq",
                                                       "rotary_emb.cos_cached",
                                                       "rotary_emb.sin_cached",
                                                       ".attn.bias",
                                                       ".attn.masked_bias",
                                                       ".attention.bias",
                                                       ".attention.masked_bias"};
  constexpr std::array<std::string_view, 5> others = {"mtp.", "visual.", "vision_tower.",
                                                      "vision_model.", "multi_modal_projector."};
  const auto is_end = [&](std::string_view end) { return name.ends_with(end); };
  const auto is_part = [&](std::string_view part) {
    const size_t at = name.find(part);
    return at != name.npos && (at == 0 || name[at - 1] == '.');
  };
  return std::ranges::any_of(buffers, is_end) || std::ranges::any_of(others, is_part);
}

bool is_adapter(std::string_view name) {
  return name.find(".lora_") != name.npos;
}

}  // namespace vga
