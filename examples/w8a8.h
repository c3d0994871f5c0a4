#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <vector>

#include "attention_probe.h"
#include "vga.h"

/// Simulated INT8 inference as Bondarenko et al. measure it (arXiv 2306.12929): numbers are rounded
/// to 8 bits and computed with as floats. Weights are symmetric, activations asymmetric, each with
/// one range for a whole tensor that does not change once it is calibrated.
namespace vga {

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

/// Of 100 ranges up to half beyond the largest magnitude the one with the smallest squared error;
/// any if interrupted.
Int8Grid best_symmetric_grid(std::span<const float> weights, size_t n_threads);

/// Writes `model_file` with rounded weights, as f32 and without a tokenizer. Gates and the matrix
/// that makes the logits are left as they are. False, and no file, if interrupted.
bool write_int8_weights(const std::filesystem::path& model_file,
                        const std::filesystem::path& out_file, size_t n_threads);

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

  const Config& config_;
  AttentionInputs in_;
  std::map<std::tuple<size_t, Site, Place>, Range> ranges_;
};

}  // namespace vga
