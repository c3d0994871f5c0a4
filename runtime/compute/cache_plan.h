#pragma once

#include <limits>
#include <span>
#include <vector>

#include "compute/device.h"
#include "compute/kv_window.h"
#include "vga/vga.h"

namespace vga {

/// How the layers of a model keep keys and values in a session. Layers that see equally far are of
/// one kind and share a cache. In a layer with a window of its own the smaller of that and the
/// session's counts: a smaller one of its own slides as trained and keeps nothing; else the layer
/// has the session's, with its kept tokens. Delta nets have no keys and values but states, which no
/// window concerns.
struct CachePlan {
  /// `options` are in range.
  CachePlan(const Config& config, const SessionOptions& options);

  KvWindow session;  // that of the session; without one, a window that ends before it slides
  static constexpr size_t no_kind = std::numeric_limits<size_t>::max();

  std::vector<KvWindow> windows;      // of each kind
  std::vector<CacheShape> shapes;     // of each kind, for all layers that are of it
  std::vector<size_t> kind_of_layer;  // (n_layers); no_kind for a delta net
  StateShape state;                   // of all delta nets

  /// The caches of some layers: each kind's shape, with no layers where it has none there.
  std::vector<CacheShape> shapes_of(const LayerRange& layers) const;
  /// The state of those that are delta nets.
  StateShape state_of(const LayerRange& layers) const;
};

}  // namespace vga
