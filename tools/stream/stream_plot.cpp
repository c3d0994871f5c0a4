/// The plot of a streaming run, as SVG.

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/text.h"
#include "common/format.h"
#include "common/program.h"
#include "common/svg.h"
#include "stream/stream_report.h"

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

/// One policy's perplexity so far.
struct Curve {
  size_t number;
  std::string label;
  std::vector<StreamPolicy::Point> points;
};

/// What a plot can show: not the first few of a policy that samples, and not too many points.
Curve shown(const StreamPolicy& policy, size_t number) {
  std::vector<StreamPolicy::Point> points = policy.curve();
  std::erase_if(points, [](const StreamPolicy::Point& p) { return p.scored < least_scored; });
  if (points.size() > most_points) {
    for (size_t i = 0; i < most_points; ++i) {
      points[i] = points[(i + 1) * points.size() / most_points - 1];
    }
    points.resize(most_points);
  }
  return {number, policy.label(), std::move(points)};
}

/// Perplexity, drawn by its logarithm, over tokens; wide and high enough for all curves.
class Plot {
 public:
  explicit Plot(std::span<const Curve> curves) : n_curves_(curves.size()) {
    for (const Curve& curve : curves) {
      for (const StreamPolicy::Point& p : curve.points) {
        lowest_ = std::min(lowest_, p.perplexity);
        highest_ = std::max(highest_, p.perplexity);
        longest_ = std::max(longest_, static_cast<double>(p.tokens));
      }
    }
    if (highest_ == 0) lowest_ = highest_ = 1;
    lowest_ /= 1.05;
    highest_ *= 1.05;
    svg_ = format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" "
        "font-family=\"sans-serif\" font-size=\"13\">\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
        width, height);
  }

  void title(const std::string& text) {
    svg_ += format("<text x=\"%g\" y=\"24\" font-size=\"15\">", left) + escaped(printable(text)) +
            "</text>\n";
  }

  /// Tokens in round steps, perplexity at 1, 2, 5, 10, ... or, where that says little, evenly.
  void axes() {
    if (highest_ / lowest_ > 4) {
      const auto power = static_cast<int>(std::floor(std::log10(lowest_)));
      for (int i = power; i <= static_cast<int>(std::log10(highest_)); ++i) {
        for (const double digit : {1.0, 2.0, 5.0}) {
          const double value = digit * std::pow(10, i);
          if (value > lowest_ && value < highest_) tick_y(value);
        }
      }
    } else {
      const double step = round_step((highest_ - lowest_) / 6);
      const auto last = static_cast<int>(highest_ / step);
      for (auto i = static_cast<int>(lowest_ / step) + 1; i <= last; ++i) tick_y(i * step);
    }
    const double step = round_step(longest_ / 6);
    for (int i = 0; i * step <= longest_; ++i) tick_x(i * step);
    svg_ += format(
        "<path d=\"M%g,%gV%gH%g\" fill=\"none\" stroke=\"black\"/><text x=\"%g\" y=\"%g\" "
        "text-anchor=\"middle\">tokens read</text>\n",
        left, top, bottom, right, (left + right) / 2, bottom + 44);
  }

  /// A line down the plot, if it reaches so far.
  void line_at(size_t tokens, const char* anchor, const char* what) {
    if (static_cast<double>(tokens) > longest_) return;
    svg_ += format(
        "<path d=\"M%.1f,%gV%g\" stroke=\"#777\" stroke-dasharray=\"1 3\"/><text "
        "x=\"%.1f\" y=\"%g\" font-size=\"11\" text-anchor=\"%s\">%s</text>\n",
        x(tokens), top, bottom, x(tokens), top - 6, anchor, what);
  }

  void curve(const Curve& c) {
    std::string line;
    for (const StreamPolicy::Point& p : c.points) {
      line += format("%s%.1f,%.1f", line.empty() ? "M" : "L", x(p.tokens), y(p.perplexity));
    }
    svg_ += format(
                "<path fill=\"none\" stroke=\"black\" stroke-width=\"1.6\" "
                "stroke-dasharray=\"%s\" d=\"",
                dashes[c.number % std::size(dashes)]) +
            line + "\"/>\n";
    // Each curve has its marks at places of its own: curves often lie on top of each other.
    constexpr size_t n_marks = 5;
    for (size_t m = 0; m < n_marks; ++m) {
      const size_t place = m * n_curves_ + c.number + 1;
      const StreamPolicy::Point& p =
          c.points[place * (c.points.size() - 1) / (n_marks * n_curves_)];
      mark(c, x(p.tokens), y(p.perplexity));
    }
  }

  /// Behind the curve's end, or as far below it as the label before needs.
  void label(const Curve& c) {
    const double perplexity = c.points.back().perplexity;
    const double at_y = std::max(y(perplexity), free_y_);
    free_y_ = at_y + 18;
    mark(c, right + 14, at_y);
    svg_ += format("<text x=\"%g\" y=\"%.1f\">", right + 24, at_y + 4) + c.label + ": " +
            short_number(perplexity) + "</text>\n";
  }

  std::string svg() const { return svg_ + "</svg>\n"; }

 private:
  template <class Number>
  double x(Number tokens) const {
    return left + (right - left) * static_cast<double>(tokens) / longest_;
  }
  double y(double perplexity) const {
    return bottom - (bottom - top) * std::log(perplexity / lowest_) / std::log(highest_ / lowest_);
  }

  void tick_x(double tokens) {
    svg_ += format(
        "<path d=\"M%.1f,%gv5\" stroke=\"black\"/><text x=\"%.1f\" y=\"%g\" "
        "text-anchor=\"middle\">%.0f</text>\n",
        x(tokens), bottom, x(tokens), bottom + 20, tokens);
  }

  void tick_y(double perplexity) {
    svg_ += format(
        "<path d=\"M%g,%.1fH%g\" stroke=\"#ccc\"/><text x=\"%g\" y=\"%.1f\" "
        "text-anchor=\"end\">%s</text>\n",
        left, y(perplexity), right, left - 8, y(perplexity) + 4, short_number(perplexity).c_str());
  }

  void mark(const Curve& c, double at_x, double at_y) {
    svg_ += format(
        "<path transform=\"translate(%.1f,%.1f)\" d=\"%s\" fill=\"white\" "
        "stroke=\"black\"/>\n",
        at_x, at_y, marks[c.number % std::size(marks)]);
  }

  size_t n_curves_;
  double lowest_ = INFINITY;
  double highest_ = 0;
  double longest_ = 1;
  double free_y_ = top;  // where the next label may stand
  std::string svg_;
};

}  // namespace

std::string svg_plot(const StreamRun& run, std::span<const StreamPolicy> policies) {
  std::vector<Curve> curves;
  for (const StreamPolicy& policy : policies) curves.push_back(shown(policy, curves.size()));
  Plot plot(curves);
  plot.title(run.model + format(": perplexity so far, window of %zu tokens", run.window));
  plot.axes();
  plot.line_at(run.window, "end", "W");
  plot.line_at(run.trained_context, "start", "trained");
  // From the top: labels keep a line's distance from each other.
  std::erase_if(curves, [](const Curve& c) { return c.points.empty(); });
  std::ranges::sort(curves, std::greater(),
                    [](const Curve& c) { return c.points.back().perplexity; });
  for (const Curve& curve : curves) {
    plot.curve(curve);
    plot.label(curve);
  }
  return plot.svg();
}

}  // namespace vga
