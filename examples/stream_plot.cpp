/// The plot of a streaming run, as SVG.

#include <algorithm>
#include <cmath>

#include "format.h"
#include "program.h"
#include "stream_report.h"
#include "svg.h"

namespace vga {
namespace {

constexpr double width = 860;
constexpr double height = 480;
constexpr double left = 70;
constexpr double right = 690;  // of the axes; labels stand behind it
constexpr double top = 50;
constexpr double bottom = 420;
constexpr size_t most_points = 400;
constexpr size_t least_scored = 30;

// Told apart without colour: dashes, marks, and a label at the end.
constexpr const char* dashes[] = {"", "7 4", "2 3", "10 3 2 3", "14 5", "4 2 1 2"};
constexpr const char* marks[] = {"M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
                                 "M-4,-4h8v8h-8Z",
                                 "M0,-5l5,9h-10Z",
                                 "M0,-5l5,5l-5,5l-5,-5Z",
                                 "M-4,-4l8,8M-4,4l8,-8",
                                 "M-5,0h10M0,-5v10"};

using Curve = std::vector<StreamPolicy::Point>;

/// What a plot can show: not the first few of a policy that samples, and not too many points.
Curve shown(Curve points) {
  std::erase_if(points, [](const StreamPolicy::Point& p) { return p.scored < least_scored; });
  if (points.size() <= most_points) return points;
  Curve fewer;
  for (size_t i = 0; i < most_points; ++i) {
    fewer.push_back(points[(i + 1) * points.size() / most_points - 1]);
  }
  return fewer;
}

}  // namespace

std::string svg_plot(const StreamRun& run, std::span<const StreamPolicy> policies) {
  std::vector<Curve> curves;
  double lowest = INFINITY;
  double highest = 0;
  double longest = 1;
  for (const StreamPolicy& policy : policies) {
    curves.push_back(shown(policy.curve()));
    for (const StreamPolicy::Point& p : curves.back()) {
      lowest = std::min(lowest, p.perplexity);
      highest = std::max(highest, p.perplexity);
      longest = std::max(longest, static_cast<double>(p.tokens));
    }
  }
  if (highest == 0) lowest = highest = 1;
  lowest /= 1.05;
  highest *= 1.05;
  const auto x = [&](auto tokens) {
    return left + (right - left) * static_cast<double>(tokens) / longest;
  };
  const auto y = [&](double perplexity) {
    return bottom - (bottom - top) * std::log(perplexity / lowest) / std::log(highest / lowest);
  };

  std::string svg = format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" font-family=\"sans-serif\" "
      "font-size=\"13\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      width, height);
  svg += format(
      "<text x=\"%g\" y=\"24\" font-size=\"15\">%s: perplexity so far, window of %zu "
      "tokens</text>\n",
      left, escaped(run.model).c_str(), run.window);

  // Axes: tokens in round steps, perplexity at 1, 2, 5, 10, ... or, where that says little, evenly.
  const auto tick_y = [&](double value) {
    svg += format(
        "<path d=\"M%g,%.1fH%g\" stroke=\"#ccc\"/><text x=\"%g\" y=\"%.1f\" "
        "text-anchor=\"end\">%s</text>\n",
        left, y(value), right, left - 8, y(value) + 4, short_number(value).c_str());
  };
  if (highest / lowest > 4) {
    const auto power = static_cast<int>(std::floor(std::log10(lowest)));
    for (int i = power; i <= static_cast<int>(std::log10(highest)); ++i) {
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double value = digit * std::pow(10, i);
        if (value > lowest && value < highest) tick_y(value);
      }
    }
  } else {
    const double step = round_step((highest - lowest) / 6);
    const auto last = static_cast<int>(highest / step);
    for (auto i = static_cast<int>(lowest / step) + 1; i <= last; ++i) tick_y(i * step);
  }
  const double step = round_step(longest / 6);
  for (int i = 0; i * step <= longest; ++i) {
    svg += format(
        "<path d=\"M%.1f,%gv5\" stroke=\"black\"/><text x=\"%.1f\" y=\"%g\" "
        "text-anchor=\"middle\">%.0f</text>\n",
        x(i * step), bottom, x(i * step), bottom + 20, i * step);
  }
  svg += format(
      "<path d=\"M%g,%gV%gH%g\" fill=\"none\" stroke=\"black\"/><text x=\"%g\" y=\"%g\" "
      "text-anchor=\"middle\">tokens read</text>\n",
      left, top, bottom, right, (left + right) / 2, bottom + 44);
  const auto mark_x = [&](size_t tokens, const char* anchor, const char* what) {
    if (static_cast<double>(tokens) > longest) return;
    svg += format(
        "<path d=\"M%.1f,%gV%g\" stroke=\"#777\" stroke-dasharray=\"1 3\"/><text "
        "x=\"%.1f\" y=\"%g\" font-size=\"11\" text-anchor=\"%s\">%s</text>\n",
        x(tokens), top, bottom, x(tokens), top - 6, anchor, what);
  };
  mark_x(run.window, "end", "W");
  mark_x(run.trained_context, "start", "trained");

  // Labels keep a line's distance from each other, in the order in which the curves end.
  std::vector<size_t> order;
  for (size_t i = 0; i < curves.size(); ++i) {
    if (!curves[i].empty()) order.push_back(i);
  }
  std::ranges::sort(order, {}, [&](size_t i) { return y(curves[i].back().perplexity); });
  double free_y = top;
  for (const size_t i : order) {
    std::string line;
    for (const StreamPolicy::Point& p : curves[i]) {
      line += format("%s%.1f,%.1f", line.empty() ? "M" : "L", x(p.tokens), y(p.perplexity));
    }
    svg += format(
               "<path fill=\"none\" stroke=\"black\" stroke-width=\"1.6\" "
               "stroke-dasharray=\"%s\" d=\"",
               dashes[i % std::size(dashes)]) +
           line + "\"/>\n";
    const auto mark = [&](double at_x, double at_y) {
      svg += format(
          "<path transform=\"translate(%.1f,%.1f)\" d=\"%s\" fill=\"white\" "
          "stroke=\"black\"/>\n",
          at_x, at_y, marks[i % std::size(marks)]);
    };
    // Each curve has its marks at places of its own: curves often lie on top of each other.
    constexpr size_t n_marks = 5;
    for (size_t m = 0; m < n_marks; ++m) {
      const size_t place = m * curves.size() + i + 1;
      const StreamPolicy::Point& p =
          curves[i][place * (curves[i].size() - 1) / (n_marks * curves.size())];
      mark(x(p.tokens), y(p.perplexity));
    }
    const StreamPolicy::Point& last = curves[i].back();
    const double label_y = std::max(y(last.perplexity), free_y);
    free_y = label_y + 18;
    mark(right + 14, label_y);
    svg += format("<text x=\"%g\" y=\"%.1f\">%s: %s</text>\n", right + 24, label_y + 4,
                  policies[i].label().c_str(), short_number(last.perplexity).c_str());
  }
  return svg + "</svg>\n";
}

}  // namespace vga
