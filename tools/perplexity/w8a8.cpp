#include "perplexity/w8a8.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "common/attention_probe.h"
#include "common/terminal.h"
#include "cpu/threads.h"
#include "gguf/decode.h"
#include "gguf/gguf.h"
#include "model/adaptation.h"
#include "model/tensor_source.h"
#include "model/weights.h"

namespace vga {
namespace {

constexpr double smallest_scale = 1e-8;
constexpr double percentile = 0.99999;
constexpr double momentum = 0.9;
constexpr size_t n_candidates = 100;
constexpr double range_margin = 0.5;
constexpr size_t n_calibration = 16;  // chunks

/// The value below which a share of `x` lies, between neighbours in proportion.
double quantile(std::vector<float>& x, double share) {
  const double place = share * static_cast<double>(x.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(place);
  std::nth_element(x.begin(), x.begin() + below, x.end());
  const double low = x[static_cast<size_t>(below)];
  if (below + 1 == std::ssize(x)) return low;
  const double high = *std::min_element(x.begin() + below + 1, x.end());
  return low + (high - low) * (place - static_cast<double>(below));
}

double capped(double x, double cap) {
  return cap > 0 ? cap * std::tanh(x / cap) : x;
}

std::vector<float> decoded(const Tensor& tensor) {
  std::vector<float> out(tensor.rows * tensor.cols);
  for (size_t r = 0; r < tensor.rows; ++r) {
    decode_row(tensor.type, tensor.row(r), std::span(out).subspan(r * tensor.cols, tensor.cols));
  }
  return out;
}

/// The scale and zero point of 8 bits, as numbers.
struct Int8Grid {
  double scale = 1;
  double zero = 0;  // the integer that stands for 0
  double lowest = 0;
  double highest = 255;

  /// 0 to 255 from `min` (or 0, if that is less) to `max`.
  static Int8Grid asymmetric(double min, double max);
  /// Zero stands for itself: -128 to 127, or 0 to 255 where nothing is negative.
  static Int8Grid symmetric(double max, bool is_signed);
  double round(double x) const;
};

Int8Grid Int8Grid::asymmetric(double min, double max) {
  min = std::min(min, 0.0);
  max = std::max(max, smallest_scale);
  const double step = (max - min) / 255;
  return {.scale = std::max(step, smallest_scale),
          .zero = std::clamp(std::nearbyint(-min / step), 0.0, 255.0)};
}

Int8Grid Int8Grid::symmetric(double max, bool is_signed) {
  Int8Grid grid{.lowest = is_signed ? -128.0 : 0.0, .highest = is_signed ? 127.0 : 255.0};
  grid.scale = std::max(std::max(max, smallest_scale) / grid.highest, smallest_scale);
  return grid;
}

double Int8Grid::round(double x) const {
  return scale * (std::clamp(std::nearbyint(x / scale) + zero, lowest, highest) - zero);
}

/// Of 100 ranges up to half beyond the largest magnitude the one with the smallest squared error;
/// any if interrupted.
Int8Grid best_symmetric_grid(std::span<const float> weights, size_t n_threads) {
  const auto [min, max] = std::ranges::minmax(weights);
  const bool is_signed = min < 0;
  const double widest = std::max(std::abs(double{min}), double{max}) + range_margin;
  std::vector<Int8Grid> grids;
  for (size_t i = 1; i <= n_candidates; ++i) {
    grids.push_back(Int8Grid::symmetric(widest / n_candidates * static_cast<double>(i), is_signed));
  }
  std::vector<double> errors(n_candidates);
  cpu::ThreadPool threads(n_threads);
  threads.run(n_candidates, 1, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end && !interrupted(); ++i) {
      for (const float w : weights) errors[i] += std::pow(w - grids[i].round(w), 2);
    }
  });
  return grids[static_cast<size_t>(std::ranges::min_element(errors) - errors.begin())];
}

/// A file seen through a rounding of its weights to 8 bits, as f32: of what adapters make of them.
/// Gates, all else that steers, and the matrix that makes the logits are left as they are.
class RoundedSource : public TensorSource {
 public:
  /// Rounds everything; incomplete if interrupted.
  RoundedSource(Gguf file, std::span<const AdapterOptions> adapters, size_t n_threads)
      : file_(std::move(file)), adaptation_(file_.config(), file_.file().file_name(), adapters) {
    const Config& as_is = adaptation_.config();
    const std::vector<WeightSpec> specs = weight_specs(config());
    Progress progress("rounding weights", specs.size());
    for (size_t i = 0; i < specs.size() && !interrupted(); ++i) {
      const WeightSpec& spec = specs[i];
      progress.update(i, spec.name);
      const bool tied = spec.role == Role::output && as_is.tied_embeddings;
      const GgufTensor* whole = adaptation_.whole(spec.name);
      GgufTensor tensor = whole != nullptr
                              ? *whole
                              : *file_.file().find_tensor(tied ? "token_embd.weight" : spec.name);
      if (tied) tensor.name = "output.weight";
      const LowRank update = adaptation_.update(spec.name);
      if (!is_kept(spec)) {
        round(changed(spec, tensor, update), n_threads);
      } else if (update) {
        changed(spec, tensor, update);
      }
      tensors_.push_back(tensor);
    }
  }

  const Gguf& file() const override { return file_.file(); }
  /// The embedding is rounded, the same matrix at the end is not.
  Config config() const override {
    Config config = adaptation_.config();
    config.tied_embeddings = false;
    return config;
  }
  std::span<const GgufTensor> tensors() const override { return tensors_; }
  void release(std::span<const std::byte>) const override {}

 private:
  static bool is_kept(const WeightSpec& spec) {
    switch (spec.role) {
      case Role::output:
      case Role::rope_factors:
      case Role::delta_rates:
      case Role::decay_scale:
      case Role::router:
      case Role::shared_weight:
        return true;
      default:
        return spec.is_gate();
    }
  }

  /// Makes a tensor view floats of its own, which an update is added to.
  std::span<float> changed(const WeightSpec& spec, GgufTensor& tensor, const LowRank& update) {
    std::vector<float>& values =
        values_.emplace_back(decoded({.type = dtype_from_gguf(tensor.type).value(),
                                      .rows = spec.rows,
                                      .cols = spec.cols,
                                      .data = tensor.data.data()}));
    for (size_t r = 0; update && r < spec.rows; ++r) {
      add_update(update, r, std::span(values).subspan(r * spec.cols, spec.cols));
    }
    tensor.type = static_cast<uint32_t>(DType::f32);
    tensor.data = std::as_bytes(std::span(values));
    return values;
  }

  static void round(std::span<float> values, size_t n_threads) {
    const Int8Grid grid = best_symmetric_grid(values, n_threads);
    for (float& w : values) w = static_cast<float>(grid.round(w));
  }

  FileSource file_;
  Adaptation adaptation_;
  std::deque<std::vector<float>> values_;  // of the rounded tensors
  std::vector<GgufTensor> tensors_;
};

/// Rounds activations: what norms, projections, attention (scores, weights and what it mixed), the
/// MLP's product and the residual sums give. Gates, and values that a gate has scaled, are left as
/// they are. While calibrating the ranges follow what is seen, the 0.001st and 99.999th percentile
/// of each batch, with a momentum of 0.9. A batch is one text from its first token on.
class Int8Activations : public Observer {
 public:
  explicit Int8Activations(const Config& config) : config_(config) {}

  bool calibrating = true;

  bool wants(Site site) const override;
  bool see(Site site, size_t layer, std::span<float> values) override;

 private:
  /// Where a range belongs to: the attention has three at one site.
  enum class Place { output, scores, weights };
  struct Range {
    double min = 0;
    double max = 0;
    bool seen = false;
  };

  void quantize(Site site, Place place, size_t layer, std::span<float> values);
  void attend(size_t layer, std::span<float> mixed);
  void apply_gate(AttentionGate::Placement placement, std::span<float> x) const;

  const Config& config_;
  AttentionInputs in_;
  std::map<std::tuple<size_t, Site, Place>, Range> ranges_;
};

bool Int8Activations::wants(Site site) const {
  switch (site) {
    case Site::attn_gate:
      return static_cast<bool>(config_.gate);
    case Site::delta_decay:
    case Site::delta_strength:
    case Site::experts:
      return false;
    default:
      return true;
  }
}

bool Int8Activations::see(Site site, size_t layer, std::span<float> values) {
  switch (site) {
    case Site::attn_gate:
      in_.gate.assign(values.begin(), values.end());
      return false;
    case Site::q_rotated:
      in_.q.assign(values.begin(), values.end());
      return false;
    case Site::k_rotated:
      in_.k.assign(values.begin(), values.end());
      return false;
    case Site::attn_mixed:
      attend(layer, values);
      quantize(site, Place::output, layer, values);
      apply_gate(AttentionGate::Placement::output, values);
      return true;
    default:
      break;
  }
  quantize(site, Place::output, layer, values);
  if (site == Site::attn_v) in_.v.assign(values.begin(), values.end());
  return true;
}

/// Rounds in place, and learns the range first while calibrating.
void Int8Activations::quantize(Site site, Place place, size_t layer, std::span<float> values) {
  Range& range = ranges_[{layer, site, place}];
  if (calibrating) {
    std::vector<float> sorted(values.begin(), values.end());
    const double max = quantile(sorted, percentile);
    const double min = quantile(sorted, 1 - percentile);
    range.min = range.seen ? (1 - momentum) * min + momentum * range.min : min;
    range.max = range.seen ? (1 - momentum) * max + momentum * range.max : max;
    range.seen = true;
  }
  const Int8Grid grid = Int8Grid::asymmetric(range.min, range.max);
  for (float& x : values) x = static_cast<float>(grid.round(x));
}

/// What attention mixes, from rounded scores and rounded weights: they have no site of their own.
void Int8Activations::attend(size_t layer, std::span<float> mixed) {
  const Config& c = config_;
  const size_t n = in_.q.size() / c.q_size();
  const size_t window = c.layers[layer].window > 0 ? c.layers[layer].window : n;
  // All heads at once, masked scores included: they share a range.
  std::vector<float> scores(c.n_heads * n * n);  // (n_heads, queries, keys)
  for (size_t head = 0; head < c.n_heads; ++head) {
    const float* k = in_.k.data() + head / c.heads_per_kv_head() * c.head_dim;
    for (size_t query = 0; query < n; ++query) {
      const float* q = in_.q.data() + query * c.q_size() + head * c.head_dim;
      for (size_t key = 0; key < n; ++key) {
        const double sum = std::inner_product(q, q + c.head_dim, k + key * c.kv_size(), 0.0);
        scores[(head * n + query) * n + key] =
            static_cast<float>(capped(sum * double{c.score_scale}, double{c.score_cap}));
      }
    }
  }
  quantize(Site::attn_mixed, Place::scores, layer, scores);
  for (size_t row = 0; row < c.n_heads * n; ++row) {
    const auto all = std::span(scores).subspan(row * n, n);
    const size_t end = row % n + 1;
    const size_t first = end > window ? end - window : 0;
    const auto seen = all.subspan(first, end - first);
    const float highest = *std::ranges::max_element(seen);
    double total = 0;
    for (float& x : seen) total += x = std::exp(x - highest);
    for (float& x : seen) x = static_cast<float>(x / total);
    std::ranges::fill(all.first(first), 0.0f);
    std::ranges::fill(all.subspan(end), 0.0f);
  }
  quantize(Site::attn_mixed, Place::weights, layer, scores);

  std::vector<float> values = in_.v;
  apply_gate(AttentionGate::Placement::value, values);
  for (size_t head = 0; head < c.n_heads; ++head) {
    const float* v = values.data() + head / c.heads_per_kv_head() * c.head_dim;
    for (size_t query = 0; query < n; ++query) {
      const float* weights = scores.data() + (head * n + query) * n;
      for (size_t i = 0; i < c.head_dim; ++i) {
        double sum = 0;
        for (size_t key = 0; key <= query; ++key) {
          sum += double{weights[key]} * v[key * c.kv_size() + i];
        }
        mixed[query * c.q_size() + head * c.head_dim + i] = static_cast<float>(sum);
      }
    }
  }
}

/// Multiplies by the gate, if it has this place. Neither it nor the product is rounded.
void Int8Activations::apply_gate(AttentionGate::Placement placement, std::span<float> x) const {
  if (!config_.gate || config_.gate.placement != placement) return;
  const size_t width = x.size() / in_.gate.size();  // elements that share a gate
  for (size_t i = 0; i < x.size(); ++i) x[i] *= in_.gate[i / width];
}

}  // namespace

Score score_w8a8(const ModelFlags& flags, std::span<const Chunk> chunks,
                 std::span<const Chunk> calibration) {
  auto source = std::make_unique<RoundedSource>(Gguf::open(flags.file), flags.model.adapters,
                                                flags.session.n_threads);
  if (interrupted()) return {};
  ModelOptions options = flags.model;
  options.adapters.clear();  // they are in the source
  options.session = flags.session;
  const Model rounded = load_model_from(std::move(source), options);
  Session session(rounded, options.session);
  Int8Activations activations(rounded.config());
  session.observe(&activations);
  for (const Chunk& chunk : calibration.first(std::min(calibration.size(), n_calibration))) {
    // All rows want logits, as the last norm is seen for such rows alone.
    each_logits(session, chunk.tokens, 0, [](size_t, std::span<const float>) {});
    if (interrupted()) return {};
  }
  activations.calibrating = false;
  return score_chunks(session, chunks);
}

}  // namespace vga
