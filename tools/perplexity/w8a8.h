#pragma once

#include <span>

#include "common/program.h"
#include "perplexity/chunks.h"

/// Simulated INT8 inference as Bondarenko et al. measure it (arXiv 2306.12929): numbers are rounded
/// to 8 bits and computed with as floats. Weights are symmetric, activations asymmetric, each with
/// one range for a whole tensor that does not change once it is calibrated.
namespace vga {

/// The score of `chunks` under the model of `flags` with weights and activations of 8 bits. The
/// first 16 chunks of `calibration` set the ranges. Of no or fewer tokens if interrupted.
Score score_w8a8(const ModelFlags& flags, std::span<const Chunk> chunks,
                 std::span<const Chunk> calibration);

}  // namespace vga
