#include "common/layer_windows.h"

#include <map>

namespace vga {

std::string layer_windows(const Config& config) {
  std::map<size_t, size_t> counts;  // of layers, by window
  for (const LayerConfig& layer : config.layers) {
    if (layer.window > 0) ++counts[layer.window];
  }
  std::string text;
  for (const auto& [window, n] : counts) {
    text += (text.empty() ? "" : ", ") + std::to_string(n) + " of " +
            std::to_string(config.n_layers()) + " layers see " + std::to_string(window) +
            " positions";
  }
  return text;
}

}  // namespace vga
