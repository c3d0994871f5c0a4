#include "probe/probe_report.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "common/format.h"
#include "common/program.h"

namespace vga {
namespace {

using nlohmann::ordered_json;

double mean_of(const LayerProbe& layer, double HeadProbe::*field) {
  double sum = 0;
  for (const HeadProbe& head : layer.heads) sum += head.*field;
  return sum / static_cast<double>(layer.heads.size());
}

double largest_of(const LayerProbe& layer, double HeadProbe::*field) {
  return std::ranges::max(layer.heads, {}, field).*field;
}

/// What delta nets remember; empty without any.
std::string delta_text(const ModelProbe& probe) {
  std::string text;
  for (size_t i = 0; i < probe.layers.size(); ++i) {
    const LayerProbe& layer = probe.layers[i];
    if (layer.delta_heads.empty()) continue;
    const auto [least, most] =
        std::ranges::minmax(layer.delta_heads, {}, &DeltaHeadProbe::half_life);
    double decay = 0;
    double strength = 0;
    for (const DeltaHeadProbe& head : layer.delta_heads) {
      decay += head.decay / static_cast<double>(layer.delta_heads.size());
      strength += head.strength / static_cast<double>(layer.delta_heads.size());
    }
    text += format("%5zu  %9.4f  %14s  %8s  %8.3f  %13s  %6s\n", i, decay,
                   short_number(least.half_life).c_str(), short_number(most.half_life).c_str(),
                   strength, short_number(layer.residual_norm_first).c_str(),
                   short_number(layer.residual_norm_others).c_str());
  }
  if (text.empty()) return text;
  return "\ndelta  state kept  tokens to half of it               residual norm\n"
         "layer     a token  least of heads      most   strength  first  others\n" +
         text;
}

/// How evenly experts are chosen; empty without any.
std::string expert_text(const ModelProbe& probe) {
  std::string text;
  for (size_t i = 0; i < probe.layers.size(); ++i) {
    const std::vector<double>& load = probe.layers[i].expert_load;
    if (load.empty()) continue;
    const auto most = std::ranges::max_element(load);
    text += format("%5zu  %6.2f%%  %6td  %11td\n", i, 100 * *most, most - load.begin(),
                   std::ranges::count(load, 0.0));
  }
  if (text.empty()) return text;
  return "\n       load of the busiest  never chosen\n"
         "layer    share  expert      experts\n" +
         text;
}

/// One number per query head.
ordered_json per_head(const LayerProbe& layer, double HeadProbe::*field) {
  ordered_json numbers = ordered_json::array();
  for (const HeadProbe& head : layer.heads) numbers.push_back(head.*field);
  return numbers;
}

}  // namespace

std::string title_of(const Model& model) {
  return model.config().model_name.empty() ? model.file_name() : model.config().model_name;
}

std::string gate_in_words(const Config& c) {
  if (!c.gate) return "none";
  return "from the " + std::string(name(c.gate.source)) + ", on " +
         std::string(name(c.gate.placement)) + "s, per " + std::string(name(c.gate.granularity));
}

std::string text_report(const Model& model, const ModelProbe& probe) {
  const bool gated = static_cast<bool>(model.config().gate);
  std::string text = format(
      "%s, gate: %s\n%zu tokens in %zu blocks of %zu\n\n", printable(title_of(model)).c_str(),
      gate_in_words(model.config()).c_str(), probe.tokens, probe.n_blocks, probe.block_tokens);
  text +=
      "        attention on the first token                         value norm  residual norm\n"
      "layer    mean   largest head   x gate   sink rate";
  if (gated) text += "   gate   <0.1   >0.9  first";
  text += "   first/others  first   others\n";
  for (size_t i = 0; i < probe.layers.size(); ++i) {
    const LayerProbe& layer = probe.layers[i];
    if (layer.heads.empty()) continue;
    text += format("%5zu  %6.4f  %13.4f  %7.4f  %9.1f%%", i,
                   mean_of(layer, &HeadProbe::first_attention),
                   largest_of(layer, &HeadProbe::first_attention),
                   mean_of(layer, &HeadProbe::gated_first_attention), 100 * layer.sink_rate);
    if (gated) {
      text += format("  %5.3f  %4.0f%%  %4.0f%%  %5.3f", mean_of(layer, &HeadProbe::gate_mean),
                     100 * mean_of(layer, &HeadProbe::gate_closed),
                     100 * mean_of(layer, &HeadProbe::gate_open),
                     mean_of(layer, &HeadProbe::gate_first));
    }
    text += format("  %13.3f  %6s  %6s\n", average(layer.value_norm_ratio),
                   short_number(layer.residual_norm_first).c_str(),
                   short_number(layer.residual_norm_others).c_str());
  }
  text += delta_text(probe) + expert_text(probe);
  text += format(
      "\nsink rate %.1f%% (heads whose first %zu tokens give the first one more than %.1f)\n"
      "max infinity norm %s over all tensors, %s over layer outputs; average kurtosis %s\n",
      100 * probe.sink_rate, std::min(sink_tokens, probe.block_tokens), sink_threshold,
      short_number(probe.max_inf_norm).c_str(), short_number(probe.max_layer_inf_norm).c_str(),
      short_number(probe.avg_kurtosis).c_str());
  return text;
}

std::string json_report(const Model& model, const ModelProbe& probe) {
  const bool gated = static_cast<bool>(model.config().gate);
  ordered_json out = {{"model", title_of(model)},
                      {"gate", gate_in_words(model.config())},
                      {"tokens", probe.tokens},
                      {"blocks", probe.n_blocks},
                      {"block_tokens", probe.block_tokens},
                      {"sink_tokens", std::min(sink_tokens, probe.block_tokens)},
                      {"sink_rate", probe.sink_rate},
                      {"first_attention", probe.first_attention},
                      {"max_inf_norm", probe.max_inf_norm},
                      {"max_layer_inf_norm", probe.max_layer_inf_norm},
                      {"avg_kurtosis", probe.avg_kurtosis},
                      {"layers", ordered_json::array()},
                      {"tensors", ordered_json::array()}};
  for (const LayerProbe& layer : probe.layers) {
    ordered_json one = {
        {"first_attention", per_head(layer, &HeadProbe::first_attention)},
        {"gated_first_attention", per_head(layer, &HeadProbe::gated_first_attention)}};
    for (const auto& [key, field] : {std::pair{"gate_mean", &HeadProbe::gate_mean},
                                     {"gate_first", &HeadProbe::gate_first},
                                     {"gate_below_0.1", &HeadProbe::gate_closed},
                                     {"gate_above_0.9", &HeadProbe::gate_open}}) {
      one[key] = gated ? per_head(layer, field) : ordered_json();
    }
    one["delta_logit"] = per_head(layer, &HeadProbe::delta_logit);
    one["value_norm_first"] = layer.value_norm_first;
    one["value_norm_ratio"] = layer.value_norm_ratio;
    one["sink_rate"] = layer.sink_rate;
    one["head_sink_rate"] = per_head(layer, &HeadProbe::sink_rate);
    for (const DeltaHeadProbe& head : layer.delta_heads) {
      one["delta_decay"].push_back(head.decay);
      one["delta_half_life"].push_back(head.half_life);
      one["delta_strength"].push_back(head.strength);
    }
    if (!layer.expert_load.empty()) one["expert_load"] = layer.expert_load;
    one["residual_norm_first"] = layer.residual_norm_first;
    one["residual_norm_others"] = layer.residual_norm_others;
    out["layers"].push_back(std::move(one));
  }
  for (const TensorProbe& tensor : probe.tensors) {
    out["tensors"].push_back(
        {{"name", tensor.name}, {"inf_norm", tensor.inf_norm}, {"kurtosis", tensor.kurtosis}});
  }
  return out.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace vga
