#include "compute/cache_plan.h"

#include <algorithm>

namespace vga {
namespace {

KvWindow session_window(const Config& config, const SessionOptions& options) {
  if (options.window > 0) {
    return {static_cast<int64_t>(options.window), static_cast<int64_t>(options.keep)};
  }
  return {static_cast<int64_t>(options.context == 0 ? config.context_length : options.context)};
}

KvWindow layer_window(const LayerConfig& layer, const KvWindow& session) {
  const auto own = static_cast<int64_t>(layer.window);
  return own > 0 && own < session.size ? KvWindow{own} : session;
}

}  // namespace

CachePlan::CachePlan(const Config& config, const SessionOptions& options)
    : session(session_window(config, options)),
      state{.n_layers = 0, .n_slots = options.n_sequences, .net = config.delta} {
  const bool session_slides = options.window > 0;
  for (const LayerConfig& layer : config.layers) {
    if (layer.mixer == Mixer::delta) {
      kind_of_layer.push_back(no_kind);
      ++state.n_layers;
      continue;
    }
    const KvWindow window = layer_window(layer, session);
    const auto found = std::ranges::find(windows, window);
    kind_of_layer.push_back(static_cast<size_t>(found - windows.begin()));
    if (found != windows.end()) {
      ++shapes[kind_of_layer.back()].n_layers;
      continue;
    }
    int64_t n_ring = window.ring_positions(options.max_batch);
    if (!session_slides) n_ring = std::min(n_ring, session.size);
    shapes.push_back(
        {.kind = windows.size(),
         .n_layers = 1,
         .n_slots = options.n_sequences,
         .n_kept = static_cast<size_t>(window.keep),
         .n_ring = (static_cast<size_t>(n_ring - 1) / page_positions + 1) * page_positions,
         .n_kv_heads = config.n_kv_heads,
         .head_dim = config.head_dim,
         .type = options.cache_type});
    windows.push_back(window);
  }
}

std::vector<CacheShape> CachePlan::shapes_of(const LayerRange& layers) const {
  std::vector<CacheShape> parts = shapes;
  for (CacheShape& part : parts) part.n_layers = 0;
  for (size_t layer = layers.first; layer < layers.end; ++layer) {
    if (kind_of_layer[layer] != no_kind) ++parts[kind_of_layer[layer]].n_layers;
  }
  return parts;
}

StateShape CachePlan::state_of(const LayerRange& layers) const {
  StateShape part = state;
  part.n_layers = static_cast<size_t>(
      std::count(kind_of_layer.begin() + static_cast<std::ptrdiff_t>(layers.first),
                 kind_of_layer.begin() + static_cast<std::ptrdiff_t>(layers.end), no_kind));
  return part;
}

}  // namespace vga
