#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "vga/config.h"

namespace vga {

class Gguf;
class GgufWriter;

/// "gemma2, gemma3, ...": the families that this runtime knows, by their GGUF architecture.
std::string family_names();

/// A Config with the options that every model of a family has, numbers still to come; nullopt for a
/// family that is not known.
std::optional<Config> family_options(std::string_view family);

/// Gives a Config so many layers, all alike, and scores the usual scale of heads of its head_dim.
/// More than max_layers stay too many, for validate() to refuse.
void set_layers(Config& config, size_t n_layers);

/// Layers of which all but every `period`-th see `window` positions and rotate by the last table;
/// those that see everything rotate by the first one.
void set_windows(Config& config, size_t window, size_t period);

/// Lets those layers be delta nets, which do not rotate.
void set_delta_nets(Config& config, const std::vector<bool>& is_delta);
/// Gives all layers but the first `n_dense` experts.
void set_experts(Config& config, size_t n_dense);

/// Reads and validates `general.architecture` and `<architecture>.*`. A vga file without a
/// complete, known gate variant is refused, and any file with a key that would change the result in
/// a way that this runtime does not know. `vocab_size` falls back to the number of tokens.
Config read_config(const Gguf& gguf);
/// Writes the same keys.
void write_config(const Config& config, GgufWriter& writer);

/// Whether models of a family have a gate anyway, of which no key tells and beside which there is
/// no other.
bool has_own_gate(std::string_view family);

/// The gate that the keys of a file of `family` describe, a model's or an adapter's; none if it has
/// no such keys.
AttentionGate read_gate(const Gguf& gguf, const std::string& family);
/// Writes the gate of a model where its keys must or may tell of it.
void write_gate(const Config& config, GgufWriter& writer);
/// Writes the keys of any gate, as an adapter has them.
void write_gate(const AttentionGate& gate, const std::string& family, GgufWriter& writer);

/// Why a model with the RoPE scaling that files call `type` cannot run: "changes frequencies as the
/// text grows, under keys already cached".
std::string_view rope_scaling_obstacle(std::string_view type);

}  // namespace vga
