#include "compute/device.h"

namespace vga {

void visit_layers(Weights& weights, const Config& config, const LayerRange& layers,
                  const std::function<void(const WeightSpec&, Tensor&)>& visit) {
  const bool has_last = layers.end == config.n_layers();
  visit_weights(weights, config, [&](const WeightSpec& spec, std::span<const WeightPart> parts) {
    bool is_theirs = spec.layer >= layers.first && spec.layer < layers.end;
    if (spec.layer == WeightSpec::no_layer && spec.role != Role::rope_factors) {
      const bool embeds = spec.role == Role::embedding || spec.role == Role::positions;
      is_theirs = embeds ? layers.first == 0 : has_last;
    }
    if (!is_theirs) return;
    for (const WeightPart& part : parts) visit(spec, *part.tensor);
  });
}

}  // namespace vga
