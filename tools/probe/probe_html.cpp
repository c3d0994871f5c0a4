/// The report of a probe as one HTML page: inline SVG and CSS, nothing from outside.

#include <algorithm>
#include <array>
#include <cmath>

#include "base/text.h"
#include "common/format.h"
#include "common/program.h"
#include "common/svg.h"
#include "probe/probe_report.h"

namespace vga {
namespace {

constexpr const char* style = R"(
:root { --ink: #1c2024; --soft: #667; --line: #d8dbe0; --deep: #23406e; --warm: #b4531a; }
* { box-sizing: border-box; }
body { font: 15px/1.5 Georgia, "DejaVu Serif", serif; color: var(--ink); background: white;
       max-width: 60rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .3rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { margin: .3rem 0 .9rem; max-width: 46rem; }
.sub, figcaption, .note { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: 0 2.4rem; margin: 1.4rem 0 0; }
.tile b { display: block; font: 600 1.7rem/1.2 system-ui, "DejaVu Sans", sans-serif; }
.tile span { color: var(--soft); font-size: .85rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.2rem 1.6rem; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(25rem, 1fr)); gap: 1.4rem 2rem; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: .85rem; }
.maps { margin-bottom: 1rem; }
svg { display: block; width: 100%; height: auto; font-family: system-ui, "DejaVu Sans", sans-serif; }
table { border-collapse: collapse; width: 100%; font: .82rem/1.35 system-ui, "DejaVu Sans", sans-serif;
        font-variant-numeric: tabular-nums; }
thead { display: table-header-group; }
th { font-weight: 600; text-align: right; vertical-align: bottom; border-bottom: 1.5px solid var(--ink); padding: .25rem .5rem; }
td { text-align: right; padding: .1rem .5rem; }
tr.first td { border-top: 1px solid var(--line); }
tr { break-inside: avoid; }
td.bar { background: linear-gradient(#c9d6ea 0 0) no-repeat left/var(--w) 100%; print-color-adjust: exact;
         -webkit-print-color-adjust: exact; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } @page { margin: 16mm; }
               .maps { grid-template-columns: 1fr 1fr; } .grid { grid-template-columns: 1fr 1fr 1fr; } }
)";

// Attention weights in steps of their square root, from white to nearly black: readable in grey
// too.
constexpr std::array ramp = {"#eef2f8", "#d8e2f0", "#bfcfe6", "#a2b8d9", "#839fca",
                             "#6485b8", "#476aa1", "#305087", "#1f386a", "#12234a"};

std::string percent(double share) {
  return format("%.*f&thinsp;%%", share < 0.0995 && share > 0 ? 1 : 0, 100 * share);
}

/// One square per query and key at (left, 14), as a path for each step of the ramp.
std::string attention_map(const std::vector<std::vector<float>>& map, double left, double side,
                          const char* title) {
  std::array<std::string, ramp.size()> cells;
  for (size_t query = 0; query < map.size(); ++query) {
    for (size_t key = 0; key <= query; ++key) {
      const double strength = std::sqrt(std::clamp(map[query][key], 0.0f, 1.0f));
      if (strength < 0.05) continue;
      const auto step = static_cast<size_t>(strength * ramp.size());
      cells[std::min(step, ramp.size() - 1)] += format("M%zu %zuh1v1h-1z", key, query);
    }
  }
  const auto n = static_cast<double>(map.size());
  std::string svg = format(
      "<text x=\"%g\" y=\"9\" font-size=\"9\" fill=\"#667\">%s</text>"
      "<g transform=\"translate(%g 14) scale(%g)\" shape-rendering=\"crispEdges\">"
      "<path d=\"M0 0V%gH%gz\" fill=\"#fafbfc\" stroke=\"#d8dbe0\" stroke-width=\"%g\"/>",
      left, title, left, side / n, n, n, n / side / 2);
  for (size_t i = 0; i < ramp.size(); ++i) {
    if (!cells[i].empty()) {
      svg += format("<path fill=\"%s\" d=\"", ramp[i]) + cells[i] + "\"/>";
    }
  }
  return svg + "</g>";
}

std::string attention_figure(const Config& c, const ModelProbe& probe, const HeadName& name) {
  const HeadProbe& head = probe.layers[name.first].heads[name.second];
  std::string svg = c.gate ? "<svg viewBox=\"0 0 420 218\">" +
                                 attention_map(head.map, 2, 200, "attention") +
                                 attention_map(head.gated_map, 216, 200, "attention times gate")
                           : "<svg viewBox=\"0 0 206 218\" style=\"max-width:16rem\">" +
                                 attention_map(head.map, 2, 200, "attention");
  std::string caption = format("<b>layer %zu, head %zu</b>: %s on the first token", name.first,
                               name.second, percent(head.first_attention).c_str());
  if (c.gate) {
    caption += format(", %s through the gate (mean %.2f, first token %.2f)",
                      percent(head.gated_first_attention).c_str(), head.gate_mean, head.gate_first);
  }
  return "<figure>" + svg + "</svg><figcaption>" + caption + "</figcaption></figure>\n";
}

std::string ramp_legend() {
  std::string svg = "<svg viewBox=\"0 0 420 24\" style=\"max-width:26rem\">";
  for (size_t i = 0; i < ramp.size(); ++i) {
    const double strength = static_cast<double>(i) / ramp.size();
    svg += format(
        "<rect x=\"%zu\" y=\"0\" width=\"40\" height=\"9\" fill=\"%s\"/>"
        "<text x=\"%zu\" y=\"20\" font-size=\"9\" fill=\"#667\">%.2f</text>",
        40 * i, ramp[i], 40 * i, strength * strength);
  }
  return svg + "</svg>\n";
}

/// A small plot over position, which is drawn by its logarithm: the first token is what matters.
class PositionPlot {
 public:
  PositionPlot(size_t n_positions, double highest) : n_(n_positions), highest_(highest) {
    svg_ = "<svg viewBox=\"0 0 288 130\">";
    const double step = round_step(highest / 3);
    for (int i = 0; i * step <= highest * 1.001; ++i) {
      svg_ += format(
          "<path d=\"M30 %.1fH276\" stroke=\"#e4e7ec\"/><text x=\"26\" y=\"%.1f\" font-size=\"9\" "
          "fill=\"#667\" text-anchor=\"end\">%g</text>",
          y(i * step), y(i * step) + 3, i * step);
    }
    for (size_t p = 1; p <= n_; p *= 4) {
      svg_ += format(
          "<text x=\"%.1f\" y=\"126\" font-size=\"9\" fill=\"#667\" text-anchor=\"middle\">%zu"
          "</text>",
          x(p - 1), p);
    }
  }

  void curve(const std::vector<double>& values, double scale, const char* colour, double width) {
    std::string path;
    for (size_t i = 0; i < values.size(); ++i) {
      path += format("%s%.1f %.1f", i == 0 ? "M" : "L", x(i), y(values[i] * scale));
    }
    svg_ += format("<path fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" d=\"", colour, width) +
            path + "\"/>";
  }

  void dot(double value, const char* colour) {
    svg_ += format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>", x(0), y(value), colour);
  }

  std::string figure(const std::string& caption) const {
    return "<figure>" + svg_ + "</svg><figcaption>" + caption + "</figcaption></figure>\n";
  }

 private:
  double x(size_t position) const {
    return 34 + 240 * std::log2(1.0 + static_cast<double>(position)) /
                    std::log2(static_cast<double>(std::max<size_t>(n_, 2)));
  }
  double y(double value) const { return 112 - 104 * std::clamp(value / highest_, 0.0, 1.0); }

  size_t n_;
  double highest_;
  std::string svg_;
};

std::string value_plots(const ModelProbe& probe) {
  double highest = 1.5;
  for (const LayerProbe& layer : probe.layers) {
    if (layer.heads.empty()) continue;
    const double others = average(layer.value_norm_at);
    for (const double value : layer.value_norm_at) highest = std::max(highest, value / others);
  }
  std::string html = "<div class=\"grid\">\n";
  for (size_t i = 0; i < probe.layers.size(); ++i) {
    const LayerProbe& layer = probe.layers[i];
    if (layer.heads.empty()) continue;
    const double scale = 1 / average(std::span(layer.value_norm_at).subspan(1));
    PositionPlot plot(probe.block_tokens, std::min(highest, 4.0));
    plot.curve(layer.value_norm_at, scale, "#23406e", 1.3);
    plot.dot(layer.value_norm_at[0] * scale, "#b4531a");
    html += plot.figure(format("layer %zu: the first token's value is %.2f of the others'", i,
                               layer.value_norm_at[0] * scale));
  }
  return html + "</div>\n";
}

std::string gate_plots(const ModelProbe& probe) {
  std::string html = "<div class=\"grid\">\n";
  for (size_t i = 0; i < probe.layers.size(); ++i) {
    const LayerProbe& layer = probe.layers[i];
    if (layer.heads.empty()) continue;
    std::vector<double> mean(probe.block_tokens);
    PositionPlot plot(probe.block_tokens, 1);
    for (const HeadProbe& head : layer.heads) {
      plot.curve(head.gate_at, 1, "#a2b8d9", 0.6);
      for (size_t p = 0; p < mean.size(); ++p) {
        mean[p] += head.gate_at[p] / static_cast<double>(layer.heads.size());
      }
    }
    plot.curve(mean, 1, "#23406e", 1.6);
    plot.dot(mean[0], "#b4531a");
    html +=
        plot.figure(format("layer %zu: mean %.2f, first token %.2f", i, average(mean), mean[0]));
  }
  return html + "</div>\n";
}

std::string bar(double share, const std::string& text) {
  return format("<td class=\"bar\" style=\"--w:%.0f%%\">", 100 * std::clamp(share, 0.0, 1.0)) +
         text + "</td>";
}

std::string head_table(const Config& c, const ModelProbe& probe) {
  std::string html =
      "<table><thead><tr><th>layer</th><th>head</th><th>attention on<br>first token</th>";
  if (c.gate) html += "<th>times<br>gate</th>";
  html += "<th>sink<br>rate</th>";
  if (c.gate) {
    html +=
        "<th>gate<br>mean</th><th>below<br>0.1</th><th>above<br>0.9</th><th>at first<br>token</th>";
  }
  html += "<th>value norm,<br>first / others</th></tr></thead><tbody>\n";
  for (size_t i = 0; i < probe.layers.size(); ++i) {
    const LayerProbe& layer = probe.layers[i];
    for (size_t h = 0; h < layer.heads.size(); ++h) {
      const HeadProbe& head = layer.heads[h];
      html += format("<tr%s><td>%s</td><td>%zu</td>", h == 0 ? " class=\"first\"" : "",
                     h == 0 ? std::to_string(i).c_str() : "", h);
      html += bar(head.first_attention, format("%.4f", head.first_attention));
      if (c.gate)
        html += bar(head.gated_first_attention, format("%.4f", head.gated_first_attention));
      html += "<td>" + percent(head.sink_rate) + "</td>";
      if (c.gate) {
        html += bar(head.gate_mean, format("%.3f", head.gate_mean)) + "<td>" +
                percent(head.gate_closed) + "</td><td>" + percent(head.gate_open) + "</td>" +
                format("<td>%.3f</td>", head.gate_first);
      }
      const bool new_value = h % c.heads_per_kv_head() == 0;  // query heads share values
      html += new_value ? format("<td>%.3f</td></tr>\n",
                                 layer.value_norm_ratio[h / c.heads_per_kv_head()])
                        : "<td></td></tr>\n";
    }
  }
  return html + "</tbody></table>\n";
}

/// What delta nets remember, head by head; empty without any.
std::string delta_html(const ModelProbe& probe) {
  std::string rows;
  for (size_t i = 0; i < probe.layers.size(); ++i) {
    const auto& heads = probe.layers[i].delta_heads;
    for (size_t h = 0; h < heads.size(); ++h) {
      rows += format("<tr%s><td>%s</td><td>%zu</td>", h == 0 ? " class=\"first\"" : "",
                     h == 0 ? std::to_string(i).c_str() : "", h) +
              bar(heads[h].decay, format("%.4f", heads[h].decay)) + "<td>" +
              short_number(heads[h].half_life) + "</td>" +
              bar(heads[h].strength, format("%.3f", heads[h].strength)) + "</tr>\n";
    }
  }
  if (rows.empty()) return rows;
  return "<h2>What delta nets remember</h2>\n<p>How much of its state a head keeps from a token to "
         "the next, after how many tokens half of it is left, and how strongly it "
         "writes.</p>\n<table><thead><tr><th>layer</th><th>head</th><th>state kept<br>a "
         "token</th><th>tokens to<br>half of it</th><th>strength</th></tr></thead><tbody>\n" +
         rows + "</tbody></table>\n";
}

/// A bar for each expert of a layer; empty without any.
std::string expert_html(const ModelProbe& probe) {
  std::string html;
  for (size_t i = 0; i < probe.layers.size(); ++i) {
    const std::vector<double>& load = probe.layers[i].expert_load;
    if (load.empty()) continue;
    const double most = std::ranges::max(load);
    const double width = 288 / static_cast<double>(load.size());
    std::string bars;
    for (size_t e = 0; e < load.size(); ++e) {
      const double height = 60 * load[e] / most;
      bars += format("M%.1f 62v-%.1fh%.1fv%.1fz", static_cast<double>(e) * width, height,
                     width * 0.8, height);
    }
    html += "<figure><svg viewBox=\"0 0 288 64\"><path fill=\"#23406e\" d=\"" + bars +
            format(
                "\"/></svg><figcaption>layer %zu: the busiest has %s, %td are never "
                "chosen</figcaption></figure>\n",
                i, percent(most).c_str(), std::ranges::count(load, 0.0));
  }
  if (html.empty()) return html;
  return "<h2>Which experts are chosen</h2>\n<p>A bar for each expert.</p>\n<div "
         "class=\"grid\">\n" +
         html + "</div>\n";
}

std::string tensor_table(const ModelProbe& probe) {
  std::vector<std::string> columns;  // sites, in order
  for (const TensorProbe& tensor : probe.tensors) {
    if (!tensor.name.starts_with("blk.")) continue;
    std::string column = tensor.name.substr(tensor.name.find('.', 4) + 1);
    if (std::ranges::find(columns, column) == columns.end()) columns.push_back(std::move(column));
  }
  std::string html = "<table><thead><tr><th>layer</th>";
  for (const std::string& column : columns) html += "<th>" + column + "</th>";
  html += "<th>residual norm,<br>first / others</th></tr></thead><tbody>\n";
  for (size_t i = 0; i < probe.layers.size(); ++i) {
    html += format("<tr><td>%zu</td>", i);
    for (const std::string& column : columns) {
      const auto at = std::ranges::find(probe.tensors, "blk." + std::to_string(i) + "." + column,
                                        &TensorProbe::name);
      if (at == probe.tensors.end()) {  // an output of attention, or of a delta net
        html += "<td></td>";
        continue;
      }
      html += "<td>" + short_number(at->inf_norm) + " <span class=\"note\">(" +
              short_number(at->kurtosis) + ")</span></td>";
    }
    html += "<td>" + short_number(probe.layers[i].residual_norm_first) + " / " +
            short_number(probe.layers[i].residual_norm_others) + "</td></tr>\n";
  }
  html += "</tbody></table>\n";
  const TensorProbe& last = probe.tensors.back();
  return html +
         "<p class=\"note\">output_norm, behind the last layer: " + short_number(last.inf_norm) +
         " (" + short_number(last.kurtosis) + ").</p>\n";
}

std::string first_tokens(const Model& model, const ModelProbe& probe) {
  const size_t n = std::min(map_tokens, probe.first_block.size());
  std::string text;
  try {
    text = model.tokenizer().decode(std::span(probe.first_block).first(n));
  } catch (const Error&) {  // a model on bare token ids
    return "";
  }
  return "<p class=\"note\">The " + std::to_string(n) + " tokens: &ldquo;" +
         escaped(printable(text)) + "&rdquo;</p>\n";
}

}  // namespace

std::string html_report(const Model& model, const ModelProbe& probe,
                        const std::vector<HeadName>& shown) {
  const Config& c = model.config();
  const std::string title = escaped(printable(title_of(model)));
  const auto tile = [](const std::string& value, const char* what) {
    return "<div class=\"tile\"><b>" + value + "</b><span>" + what + "</span></div>\n";
  };
  std::vector<double> ratios;
  for (const LayerProbe& layer : probe.layers) {
    if (!layer.heads.empty()) ratios.push_back(average(layer.value_norm_ratio));
  }
  std::string html = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<title>" +
                     title + ": probe</title>\n<style>" + style + "</style></head><body>\n<h1>" +
                     title + "</h1>\n";
  html += "<p class=\"sub\">" + model.description() + ", gate " + gate_in_words(c) +
          format(". %zu tokens in %zu blocks of %zu, each read from its start.</p>\n", probe.tokens,
                 probe.n_blocks, probe.block_tokens);
  html += "<div class=\"tiles\">" + tile(percent(probe.sink_rate), "sink rate") +
          tile(percent(probe.first_attention), "attention on the first token") +
          tile(format("%.2f", average(ratios)), "its value norm / others'") +
          tile(short_number(probe.max_inf_norm), "max infinity norm") +
          tile(short_number(probe.avg_kurtosis), "average kurtosis") + "</div>\n";

  html +=
      "<h2>Where heads look</h2>\n<p>The first tokens of the text: a row is a query, a column a "
      "key. A dark left edge is a sink";
  html += c.gate ? "; on the right, times the gate, is what really arrives.</p>\n" : ".</p>\n";
  html += "<div class=\"maps\">\n";
  for (const HeadName& name : shown) html += attention_figure(c, probe, name);
  html += "</div>\n" + ramp_legend() + first_tokens(model, probe);

  html +=
      "<h2>How large values are</h2>\n<p>Norm of the value vector over position (logarithmic), "
      "relative to the mean of all but the first token, which is the dot. A sink's value is "
      "drained: far below 1.</p>\n" +
      value_plots(probe);
  if (c.gate) {
    html +=
        "<h2>What gates do</h2>\n<p>Mean gate over position: each head, and the mean of all in "
        "dark. The dot is the first token.</p>\n" +
        gate_plots(probe);
  }
  html += "<h2>Head by head</h2>\n" + head_table(c, probe);
  html += delta_html(probe) + expert_html(probe);
  html +=
      "<h2>Outliers</h2>\n<p>Infinity norm, and kurtosis in brackets, of each activation; the "
      "larger, the worse they fit into 8 bits.</p>\n" +
      tensor_table(probe);
  html += format(
      "<h2>Definitions</h2>\n<p class=\"note\">Attention on the first token: mean over all queries "
      "of a block and over blocks, before any gate. Sink rate: share of heads and blocks whose "
      "first %zu queries give the first token more than %.1f on average (Gu et al., "
      "arXiv&nbsp;2410.10781). Value norms are taken before any gate. Infinity norm: largest "
      "magnitude in a block, mean over blocks, the maximum over tensors. Kurtosis: mean fourth "
      "power of the deviation over the fourth power of the standard deviation in a block, mean "
      "over the first %zu blocks and over tensors; a Gaussian has 3 (Bondarenko et al., "
      "arXiv&nbsp;2306.12929).</p>\n",
      std::min(sink_tokens, probe.block_tokens), sink_threshold, kurtosis_blocks);
  return html + "</body></html>\n";
}

}  // namespace vga
