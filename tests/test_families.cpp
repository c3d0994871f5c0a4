/// Every option of a Config against the plain reference: tiny random models of each family, their
/// metadata as files have it.

#include <algorithm>
#include <string>

#include <gtest/gtest.h>

#include "common/layers.h"
#include "compute/backend.h"
#include "cpu/kernels.h"
#include "environment.h"
#include "gguf_image.h"
#include "logits.h"
#include "model/families.h"
#include "model/weights.h"
#include "naive_model.h"
#include "run_program.h"
#include "vga/vga.h"
#include "vulkan_device.h"

namespace vga::test {
namespace {

using Gate = AttentionGate;

struct FamilyCase {
  std::string name;
  std::string family;
  size_t n_layers = 2;
  std::vector<std::pair<std::string, float>> keys =
      {};  // without the family; whole ones as integers
  std::function<void(GgufImage&)> more_keys = [](GgufImage&) {};
  std::function<void(Config&)> tensors = [](Config&) {};
  size_t context = 96;
};

std::ostream& operator<<(std::ostream& out, const FamilyCase& c) {
  return out << c.name;
}

std::function<void(GgufImage&)> strings(
    std::vector<std::pair<std::string, std::string>> keys_and_values) {
  return [entries = std::move(keys_and_values)](GgufImage& image) {
    for (const auto& [key, value] : entries) image.set(key, value);
  };
}

std::function<void(GgufImage&)> gate_keys(const std::string& family, Gate gate) {
  return strings({{family + ".attention.gate.source", std::string(name(gate.source))},
                  {family + ".attention.gate.placement", std::string(name(gate.placement))},
                  {family + ".attention.gate.granularity", std::string(name(gate.granularity))}});
}

void untied(Config& c) {
  c.tied_embeddings = false;
}
void all_biases(Config& c) {
  c.biases = {.qkv = true, .output = true, .ffn = true};
}
void gate_bias(Config& c) {
  c.gate.bias = true;
}
/// Divisors of the four pairs of a head.
void fixed_factors(GgufImage& image) {
  image.set_rope_factors({1, 1.5f, 2, 4});
}
void factors_by_context(GgufImage& image) {
  image.set_rope_factors({1, 1.25f, 1.5f, 2}, "rope_factors_short.weight");
  image.set_rope_factors({1.5f, 2, 4, 9}, "rope_factors_long.weight");
}

void bools(GgufImage& image) {
  image.set_array("olmo2.attention.sliding_window_pattern", GgufType::boolean, 5,
                  std::string("\1\1\0\1\0", 5));
  image.set("olmo2.rope.scaling.type", "yarn");
}

std::vector<FamilyCase> family_cases() {
  const std::vector<std::pair<std::string, float>> yarn = {
      {"rope.scaling.factor", 4},
      {"rope.scaling.original_context_length", 24},
      {"rope.scaling.yarn_beta_fast", 2.5f},
      {"rope.scaling.yarn_beta_slow", 0.5f},
      {"rope.freq_base", 100}};
  auto olmo3 = yarn;
  olmo3.emplace_back("attention.sliding_window", 8);
  const auto none = [](GgufImage&) {};
  const auto neox = [](bool parallel) {
    return [=](GgufImage& image) { image.set("gptneox.use_parallel_residual", parallel); };
  };
  const auto not_finetuned = [](GgufImage& image) {
    image.set("granite.rope.scaling.finetuned", false);
  };
  const std::vector<std::pair<std::string, float>> granite = {{"logit_scale", 6},
                                                              {"residual_scale", 0.22f},
                                                              {"embedding_scale", 12},
                                                              {"attention.scale", 0.2f}};
  const std::vector<std::pair<std::string, float>> gemma3 = {
      {"attention.sliding_window", 8},
      {"attention.sliding_window_pattern", 3},
      {"rope.freq_base", 1e6f},
      {"rope.scaling.factor", 8},
      {"final_logit_softcapping", 3}};
  const Gate by_element = {Gate::Source::value, Gate::Placement::output,
                           Gate::Granularity::element};
  const Gate by_head = {Gate::Source::input, Gate::Placement::output, Gate::Granularity::head};
  const Gate on_values = {Gate::Source::value, Gate::Placement::value, Gate::Granularity::head};
  // More value heads than key heads, heads of no whole vectors, more taps than usual.
  const std::vector<std::pair<std::string, float>> delta = {
      {"ssm.conv_kernel", 5},    {"ssm.state_size", 12}, {"ssm.group_count", 2},
      {"ssm.time_step_rank", 6}, {"ssm.inner_size", 72}, {"rope.dimension_count", 4}};
  const std::vector<std::pair<std::string, float>> experts = {{"embedding_length", 32},
                                                              {"expert_count", 6},
                                                              {"expert_used_count", 3},
                                                              {"expert_feed_forward_length", 16}};
  const auto both = [](auto a, const auto& b,
                       std::initializer_list<std::pair<std::string, float>> more) {
    a.insert(a.end(), b.begin(), b.end());
    a.insert(a.end(), more);
    return a;
  };
  const auto shared = both(delta, experts, {{"expert_shared_feed_forward_length", 24}});
  const auto afmoe = both(experts, experts,
                          {{"attention.sliding_window", 8},
                           {"leading_dense_block_count", 1},
                           {"expert_shared_count", 2},
                           {"expert_weights_scale", 1.5f}});
  return {
      {"qwen35", "qwen35", 5, delta},
      {"qwen35moe", "qwen35moe", 5, shared},
      {"qwen3next", "qwen3next", 5, shared, none, untied},
      {"qwen3moe", "qwen3moe", 2, experts},
      {"afmoe", "afmoe", 5, afmoe, none, untied},
      {"vga", "vga", 2, {}, gate_keys("vga", on_values)},
      {"llama", "llama", 2, {}, none, untied},
      {"llama_biases", "llama", 2, {}, none, all_biases},
      {"llama_factors", "llama", 2, {}, fixed_factors},
      {"mistral", "llama", 3, {{"attention.sliding_window", 8}}},
      {"smollm3", "smollm3", 5},
      {"qwen2", "qwen2"},
      {"qwen3", "qwen3", 2, {}, none, untied},
      {"qwen3_yarn", "qwen3", 2, yarn, strings({{"qwen3.rope.scaling.type", "yarn"}})},
      {"qwen3_gated", "qwen3", 2, {}, gate_keys("qwen3", by_element), gate_bias},
      {"gemma2", "gemma2", 3, {{"attention.sliding_window", 8}, {"attn_logit_softcapping", 2}}},
      {"gemma3", "gemma3", 7, gemma3},
      {"gemma3_full", "gemma3", 2},
      {"gemma3_gated", "gemma3", 4, gemma3, gate_keys("gemma3", by_head)},
      {"phi3", "phi3", 2, {{"attention.sliding_window", 20}}, none, untied},
      {"phi3_partial", "phi3", 2, {{"rope.dimension_count", 6}}},
      {"phi3_short",
       "phi3",
       2,
       {{"rope.scaling.original_context_length", 32}, {"rope.scaling.attn_factor", 1.2f}},
       factors_by_context,
       untied,
       30},
      {"phi3_long",
       "phi3",
       2,
       {{"rope.scaling.original_context_length", 32}, {"rope.scaling.attn_factor", 1.2f}},
       factors_by_context,
       untied,
       90},
      {"olmo2", "olmo2", 2, {}, none, untied},
      {"olmo3", "olmo2", 5, olmo3, bools, untied},
      {"granite", "granite", 2, granite},
      {"granite_without_rope", "granite", 2, granite, not_finetuned, all_biases},
      {"gpt2", "gpt2"},
      {"gptneox", "gptneox", 2, {{"rope.dimension_count", 2}}, neox(true), untied},
      {"gptneox_serial", "gptneox", 2, {{"rope.dimension_count", 4}}, neox(false), untied},
      {"opt", "opt"},
      {"opt_gated", "opt", 2, {}, gate_keys("opt", on_values), gate_bias},
  };
}

GgufImage image_of(const FamilyCase& c) {
  const auto keys = [&](GgufImage& image) {
    for (const auto& [suffix, value] : c.keys) {
      const std::string key = c.family + "." + suffix;
      if (value == std::floor(value) && suffix != "rope.freq_base") {
        image.set(key, static_cast<uint32_t>(value));
      } else {
        image.set(key, value);
      }
    }
    c.more_keys(image);
  };
  return family_model(c.family, c.n_layers, keys, c.tensors);
}

class Families : public testing::TestWithParam<FamilyCase> {
 protected:
  /// Delta nets bring keys to length 1, which makes errors larger where they were short.
  static double growth(const Config& config) { return config.has(Mixer::delta) ? 10 : 1; }
  /// The error that rounding may come to.
  static double rounding(const Config& config) { return 3e-5 * growth(config); }
  size_t n_tokens() const { return std::min<size_t>(GetParam().context, 70); }
  SessionOptions options(DType cache_type) const {
    return {
        .context = GetParam().context, .n_threads = 1, .max_batch = 90, .cache_type = cache_type};
  }
  Model load() { return Model::load(directory_.write("m.gguf", image_.bytes())); }
  bool has_windows(const Model& model) {
    return std::ranges::any_of(model.config().layers, [](auto& l) { return l.window > 0; });
  }

  GgufImage image_ = image_of(GetParam());
  TemporaryDirectory directory_;
};

TEST_P(Families, EveryKernelEqualsTheDefinition) {
  const auto tokens = some_tokens(n_tokens());
  const Config config = load().config();
  NaiveModel naive(image_, config, GetParam().context);
  std::vector<float> expected;
  for (const Token token : tokens) {
    for (const double logit : naive.add(token)) expected.push_back(static_cast<float>(logit));
  }
  for (const cpu::Kernels* kernels : cpu::supported_kernels()) {
    const Variable table("VGA_CPU", kernels->name);
    const Model model = load();
    EXPECT_LT(
        worst_error(logits_in_chunks(model, options(DType::f32), tokens, 13), expected, tiny_vocab),
        rounding(config))
        << kernels->name;
    if (on_device()) break;  // which has its own
  }
}

TEST_P(Families, ChunksThreadsAndOtherSequencesDoNotMatter) {
  const auto tokens = some_tokens(n_tokens());
  const Model model = load();
  for (const DType type : {DType::f32, DType::f16}) {
    const double more = type == DType::f32 ? growth(model.config()) : 1;
    SessionOptions o = options(type);
    const auto expected = logits_in_chunks(model, o, tokens, 1);
    for (const size_t n_threads : {1, 3}) {
      o.n_threads = n_threads;
      EXPECT_TRUE(
          same_logits(logits_in_chunks(model, o, tokens, 11), expected, tiny_vocab, type, more));
      EXPECT_TRUE(
          same_logits(logits_in_chunks(model, o, tokens, 90), expected, tiny_vocab, type, more));
    }
    o.n_sequences = 2;
    Session both(model, o);
    both.prefill(std::span(tokens).first(5), 0);
    for (size_t i = 0; i < 20; ++i) {
      const std::array rows = {Row{tokens[i + 5], static_cast<int64_t>(i + 5), 0},
                               Row{tokens[i], static_cast<int64_t>(i), 1, true}};
      EXPECT_TRUE(same_logits(both.decode(rows),
                              std::span(expected).subspan(i * tiny_vocab, tiny_vocab), tiny_vocab,
                              type, more));
    }
  }
}

// The smaller of a session's window and a layer's own counts.
TEST_P(Families, StreamingWindowsEqualTheDefinition) {
  const Model model = load();
  if (model.config().learned_positions) {
    try {
      const Session session(model, {.window = 20});
      FAIL() << "was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("learned"), std::string::npos) << error.what();
    }
    EXPECT_THROW(Session(model, {.context = 97}), Error);
    return;
  }
  const auto tokens = some_tokens(100);
  for (const auto& [window, keep] : {std::pair<size_t, size_t>{19, 3}, {6, 2}, {9, 0}}) {
    NaiveModel naive(image_, model.config(), window);
    std::vector<float> expected;
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::vector<size_t> seen;
      for (size_t p = 0; p <= i; ++p) {
        if (p < keep || i - p < window - keep) seen.push_back(p);
      }
      for (const double logit : naive.add(tokens[i], seen)) {
        expected.push_back(static_cast<float>(logit));
      }
    }
    const SessionOptions o = {
        .window = window, .keep = keep, .n_threads = 1, .max_batch = 16, .cache_type = DType::f32};
    EXPECT_LT(worst_error(logits_in_chunks(model, o, tokens, 7), expected, tiny_vocab),
              rounding(model.config()))
        << "window " << window << ", keep " << keep;
  }
}

TEST_P(Families, WhatAllRingsHoldCanBeTakenBack) {
  const Model model = load();
  const auto tokens = some_tokens(n_tokens());
  SessionOptions o = options(DType::f32);
  o.max_batch = 10;
  Session once(model, o);
  Session twice(model, o);
  const size_t n = tokens.size() - 12;
  once.prefill(std::span(tokens).first(n));
  twice.prefill(std::span(tokens).first(n));
  const Snapshot snapshot = twice.snapshot();
  twice.prefill(std::span(tokens).subspan(3, 10));
  if (twice.rewinds()) {
    twice.truncate(static_cast<int64_t>(n));
  } else {
    EXPECT_THROW(twice.truncate(static_cast<int64_t>(n)), CannotRewind);
    twice.restore(snapshot);
  }
  EXPECT_TRUE(same_logits(twice.decode(tokens[n]), once.decode(tokens[n]), tiny_vocab, DType::f32));
  twice.truncate(0);
  Session fresh(model, o);
  EXPECT_TRUE(same_logits(twice.decode(7), fresh.decode(7), tiny_vocab, DType::f32));
}

// A few seconds for each of 27 families where a driver compiles shaders for the CPU: hence one
// session with all sorts of batches, for few rows and many are multiplied by shaders of their own.
TEST_P(Families, VulkanEqualsTheCpu) {
  if (const std::string why = why_no_device(); !why.empty()) GTEST_SKIP() << why;
  const auto file = directory_.write("m.gguf", image_.bytes());
  const Model on_cpu = Model::load(file, {.device = "cpu"});
  // Models of many layers leave the last one to the CPU.
  const size_t n_layers = GetParam().n_layers;
  const Model on_device = Model::load(
      file, {.device = "vulkan", .device_layers = n_layers > 2 ? n_layers - 1 : n_layers});
  const auto tokens = some_tokens(n_tokens());
  std::vector<SessionOptions> all = {options(DType::f32)};
  if (has_windows(on_cpu))
    all.push_back({.window = 19, .keep = 3, .n_threads = 1, .max_batch = 90});
  for (const SessionOptions& o : all) {
    const auto expected = logits_in_chunks(on_cpu, o, tokens, 90);
    Session session(on_device, o);
    size_t done = 0;
    for (const size_t n : {3u, 20u, 1u, 1000u}) {
      std::vector<Row> rows;
      for (; rows.size() < n && done < tokens.size(); ++done) {
        rows.push_back({tokens[done], static_cast<int64_t>(done), 0, true});
      }
      const size_t first = done - rows.size();
      EXPECT_LT(
          worst_error(session.decode(rows),
                      std::span(expected).subspan(first * tiny_vocab, rows.size() * tiny_vocab),
                      tiny_vocab),
          1e-3)
          << name(o.cache_type) << ", window " << o.window << ", from " << first << " on";
    }
  }
}

// What is written is read again, without what only tensors tell.
TEST_P(Families, ConfigsComeBackFromTheirKeys) {
  const Config config = load().config();
  GgufWriter writer;
  write_config(config, writer);
  const auto specs = weight_specs(config);
  for (const WeightSpec& spec : specs) {
    writer.add_tensor(spec.name, DType::f32, spec.shape());
  }
  const auto path = directory_.path() / "again.gguf";
  OutputFile out(path);
  writer.begin(out);
  for (const WeightSpec& spec : specs) {
    const std::vector<float> ones(spec.rows * spec.cols, 1);
    out.write(std::as_bytes(std::span(ones)));
    writer.pad(out);
  }
  out.commit();
  const Gguf again = Gguf::open(path);
  EXPECT_EQ(read_config(again), config);
}

INSTANTIATE_TEST_SUITE_P(Cases, Families, testing::ValuesIn(family_cases()),
                         [](const auto& row) { return row.param.name; });

/// A model whose window layers have slid.
class WindowLayers : public testing::Test {
 protected:
  GgufImage image_ = family_model(
      "gemma3", 6,
      [](GgufImage& image) {
        image.set("gemma3.context_length", 4000u);
        image.set("gemma3.attention.sliding_window", 8u);
      },
      [](Config&) {});
  TemporaryDirectory directory_;
  Model model_ = Model::load(directory_.write("m.gguf", image_.bytes()));
};

TEST_F(WindowLayers, HoldTheirWindow) {
  const SessionOptions o = {.n_threads = 1, .max_batch = 16};
  // K and V of two heads, padded to 16 elements of two bytes.
  const uint64_t page = 2 * 2 * page_positions * 16 * 2;
  // A page for each of five layers, 4000 positions for the sixth.
  EXPECT_EQ(cache_bytes(model_.config(), o), (5 + 16) * page);
}

TEST_F(WindowLayers, AreTold) {
  EXPECT_EQ(layer_windows(model_.config()), "5 of 6 layers see 8 positions");
  const Outcome inspected = run("vga-inspect '" + model_.file_name() + "'");
  EXPECT_NE(inspected.output.find("5 of 6 layers see 8 positions"), std::string::npos);
}

TEST_F(WindowLayers, SayHowFarATextCanBeTakenBack) {
  Session session(model_, {.n_threads = 1, .max_batch = 16, .cache_type = DType::f32});
  const auto tokens = some_tokens(600);
  session.prefill(tokens);
  try {
    session.truncate(300);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    // A ring of 256 has positions from 344 on, and the token at 351 sees 7 before itself.
    EXPECT_NE(std::string(error.what()).find("at least 351"), std::string::npos) << error.what();
  }
  session.truncate(351);
  Session fresh(model_, {.n_threads = 1, .max_batch = 16, .cache_type = DType::f32});
  fresh.prefill(std::span(tokens).first(351));
  EXPECT_TRUE(same_logits(session.decode(3), fresh.decode(3), tiny_vocab, DType::f32));
}

}  // namespace
}  // namespace vga::test
