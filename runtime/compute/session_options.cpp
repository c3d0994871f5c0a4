#include "compute/session_options.h"

#include <optional>
#include <string>

#include "base/checked.h"
#include "base/memory.h"
#include "compute/forward.h"
#include "cpu/threads.h"

namespace vga {
namespace {

/// What a CachePlan takes. An Error names the option.
void validate_sizes(const SessionOptions& o, const Config& config) {
  const auto in_range = [](std::string_view option, size_t value, size_t min, size_t max) {
    if (value >= min && value <= max) return;
    throw Error(option, "wanted " + std::to_string(min) + " to " + std::to_string(max) +
                            ", found " + std::to_string(value));
  };
  in_range("context", o.context, 0, max_context);
  in_range("window", o.window, 0, max_context);
  if (o.window > 0 && o.context > 0) {
    throw Error("window", "a session has a context or a window, found both");
  }
  if (o.keep > 0 && o.keep >= o.window) {
    throw Error("keep", "wanted less than the window of " + std::to_string(o.window) +
                            " tokens, found " + std::to_string(o.keep));
  }
  if (config.learned_positions) {
    if (o.window > 0) {
      throw Error("window", "this model has learned a vector for each of " +
                                std::to_string(config.context_length) +
                                " positions and knows none beyond: no window can slide over them");
    }
    in_range("context", o.context, 0, config.context_length);
  }
  in_range("sequences", o.n_sequences, 1, 4096);
  in_range("threads", o.n_threads, 0, cpu::max_threads);
  in_range("batch", o.max_batch, 1, 1 << 16);
}

/// Bytes of keys and values of some shapes; nullopt if no number holds them.
std::optional<uint64_t> checked_bytes(std::span<const CacheShape> shapes) {
  std::optional<uint64_t> sum = 0;
  for (const CacheShape& shape : shapes) {
    const auto bytes = shape.checked_bytes();
    sum = sum && bytes ? checked_add(*sum, *bytes) : std::nullopt;
  }
  return sum;
}

}  // namespace

void validate(const SessionOptions& o, const Config& config) {
  validate_sizes(o, config);
  if (o.cache_type != DType::f16 && o.cache_type != DType::f32 && o.cache_type != DType::q8_0) {
    throw Error("cache type", "wanted f16, f32 or q8_0, found " + std::string(name(o.cache_type)));
  }
  if (config.head_dim % block_elements(o.cache_type) != 0) {
    throw Error("cache type", "q8_0 wants heads of a multiple of 32 elements, this model's have " +
                                  std::to_string(config.head_dim));
  }
  cache_bytes(config, o);
}

void check_room(const Config& config, const SessionOptions& o, size_t first) {
  const std::string type(name(o.cache_type));
  const bool slides = o.window > 0;
  const size_t n_tokens = slides ? o.window : o.context > 0 ? o.context : config.context_length;
  const uint64_t on_device = first > 0 ? session_bytes(config, o, first) : 0;
  std::string less = slides ? "a shorter --window" : "a shorter context (-c)";
  if (o.cache_type == DType::f32) less += " or --cache-type f16";
  if (o.cache_type == DType::f16 && config.head_dim % block_elements(DType::q8_0) == 0) {
    less += " or --cache-type q8_0";
  }
  check_memory(session_bytes(config, o, config.n_layers()) - on_device,
               std::string(slides ? "a window of " : "a context of ") + std::to_string(n_tokens) +
                   " tokens in " + type,
               less + " takes less");
}

uint64_t plan_bytes(const CachePlan& plan, size_t n_layers) {
  std::optional<uint64_t> bytes = checked_bytes(plan.shapes_of({0, n_layers}));
  const auto of_states = plan.state_of({0, n_layers}).checked_bytes();
  bytes = bytes && of_states ? checked_add(*bytes, *of_states) : std::nullopt;
  if (!bytes) {
    throw Error("cache", "wanted less than 2^64 bytes, found " +
                             std::to_string(plan.shapes[0].n_slots) + " sequences of " +
                             std::to_string(plan.session.size) + " tokens");
  }
  return *bytes;
}

uint64_t cache_bytes(const Config& config, const SessionOptions& options) {
  validate_sizes(options, config);
  return plan_bytes(CachePlan(config, options), config.n_layers());
}

uint64_t session_bytes(const Config& c, const SessionOptions& options, size_t n_layers) {
  validate_sizes(options, c);
  const CachePlan plan(c, options);
  uint64_t bytes = plan_bytes(plan, n_layers);
  const auto add_buffer = [&](size_t rows, size_t cols) {
    bytes += rows * padded_cols(cols) * sizeof(float);
  };
  Activations unused;
  visit_activations(unused, c, plan.session.keep > 0, [&](std::unique_ptr<Buffer>&, size_t cols) {
    add_buffer(options.max_batch, cols);
  });
  if (n_layers == c.n_layers()) add_buffer(std::min(options.max_batch, logits_rows), c.vocab_size);
  return bytes;
}

}  // namespace vga
