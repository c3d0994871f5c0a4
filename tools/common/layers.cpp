#include "common/layers.h"

#include <algorithm>
#include <map>

namespace vga {
namespace {

std::string of_all(size_t n, const Config& config) {
  return std::to_string(n) + " of " + std::to_string(config.n_layers()) + " layers ";
}

}  // namespace

std::string layer_windows(const Config& config) {
  std::map<size_t, size_t> counts;  // of layers, by window
  for (const LayerConfig& layer : config.layers) {
    if (layer.window > 0) ++counts[layer.window];
  }
  std::string text;
  for (const auto& [window, n] : counts) {
    text += (text.empty() ? "" : ", ") + of_all(n, config) + "see " + std::to_string(window) +
            " positions";
  }
  return text;
}

std::string layer_mixers(const Config& config) {
  if (!config.has(Mixer::delta)) return "";
  const auto n = std::ranges::count(config.layers, Mixer::delta, &LayerConfig::mixer);
  return of_all(static_cast<size_t>(n), config) +
         "are delta nets, which remember what left a window in their own way";
}

std::string layer_experts(const Config& config) {
  if (!config.has_experts()) return "";
  const Experts& e = config.experts;
  const auto n = std::ranges::count(config.layers, true, &LayerConfig::experts);
  return of_all(static_cast<size_t>(n), config) + "have " + std::to_string(e.n) +
         " experts, of which a token takes " + std::to_string(e.n_used) +
         (e.shared_ffn_size > 0 ? " and a shared one" : "");
}

}  // namespace vga
