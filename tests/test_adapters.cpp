/// Adapters: as PEFT saves them and as GGUF files, applied, baked in, switched and refused.
/// tests/make_adapters.py wrote the former and what PyTorch makes of the merged models.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <optional>
#include <random>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "gguf_image.h"
#include "logits.h"
#include "model/families.h"
#include "model/weights.h"
#include "npy.h"
#include "run_program.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

namespace fs = std::filesystem;

const fs::path test_data = fs::path(VGA_SOURCE_DIR) / "tests/data";

std::vector<std::string> all_cases() {
  std::vector<std::string> names;
  for (const auto& folder : fs::directory_iterator(test_data / "adapters")) {
    names.push_back(folder.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

std::string quoted(const fs::path& path) {
  return "'" + path.string() + "'";
}

void succeeds(const std::string& command) {
  const Outcome outcome = run(command);
  EXPECT_EQ(outcome.status, 0) << command << ": " << outcome.errors;
}

/// An adapter that changes every matrix of a model but its gates by random numbers.
GgufImage adapter_for(const Gguf& base, size_t rank, float size) {
  GgufImage image;
  const std::string family(*base.string("general.architecture"));
  image.set("general.architecture", family);
  image.set("general.type", "adapter");
  image.set("adapter.type", "lora");
  image.set("adapter.lora.alpha", static_cast<float>(rank));
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const auto add = [&](const std::string& name, size_t rows, size_t cols) {
    GgufImage::TensorImage tensor{name, {cols, rows}, 0, {}, {}};
    const float scale = size / std::sqrt(static_cast<float>(cols));
    for (size_t i = 0; i < rows * cols; ++i) tensor.data += raw(normal(random) * scale);
    image.tensors.push_back(std::move(tensor));
  };
  for (const WeightSpec& spec : weight_specs(read_config(base))) {
    if (!spec.is_matrix() || spec.role == Role::attn_gate) continue;
    add(spec.name + ".lora_a", rank, spec.cols);
    add(spec.name + ".lora_b", spec.rows, rank);
  }
  return image;
}

/// Bases of tests/data/families and an adapter for one of them, as GGUF files.
class Adapters : public testing::Test {
 protected:
  /// The base of an adapter of tests/data/adapters.
  static std::string base_name(const std::string& adapter) {
    std::string name = read_text(test_data / "adapters" / adapter / "base");
    name.pop_back();
    return name;
  }
  fs::path base(const std::string& name, const std::string& type = "f32") const {
    fs::path file = directory_.path() / (name + "-" + type + ".gguf");
    if (!fs::exists(file)) convert(test_data / "families" / name, file, type);
    return file;
  }
  fs::path adapter(const std::string& name, const std::string& type = "f32") const {
    fs::path file = directory_.path() / (name + "-" + type + "-adapter.gguf");
    if (fs::exists(file)) return file;
    succeeds("vga-convert " + quoted(test_data / "adapters" / name) + " --base " +
             quoted(base(base_name(name))) + " -o " + quoted(file) + " --type " + type);
    return file;
  }
  static std::vector<Token> tokens(const std::string& base) {
    return nlohmann::json::parse(read_text(test_data / "families" / base / "tokens.json"))
        .get<std::vector<Token>>();
  }
  static std::vector<float> logits(const Model& model, const std::string& base, size_t chunk = 0,
                                   size_t n_threads = 1) {
    const std::vector<Token> all = tokens(base);
    const SessionOptions options{
        .context = all.size(), .n_threads = n_threads, .cache_type = DType::f32};
    return logits_in_chunks(model, options, all, chunk == 0 ? all.size() : chunk);
  }

  TemporaryDirectory directory_;
};

// -- PEFT's ---------------------------------------------------------------------------------------

class PeftAdapters : public Adapters, public testing::WithParamInterface<std::string> {};

TEST_P(PeftAdapters, LogitsAreThoseOfTheMergedModel) {
  const std::string of = base_name(GetParam());
  const Npy expected(test_data / "adapters" / GetParam() / "logits.npy");
  const Model model = Model::load(base(of), {.adapters = {{adapter(GetParam())}}});
  const auto whole = logits(model, of);
  const double worst = worst_error(whole, expected.values, expected.cols);
  RecordProperty("relative_error", std::to_string(worst));
  EXPECT_LT(worst, 1e-4);
  for (const size_t n_threads : {1, 3}) {
    if (n_threads > 1 && on_device()) break;  // which has its own
    for (const size_t chunk : {1, 7, 33}) {
      EXPECT_TRUE(
          same_logits(logits(model, of, chunk, n_threads), whole, expected.cols, DType::f32))
          << chunk << " rows, " << n_threads << " threads";
    }
  }
}

TEST_P(PeftAdapters, BakedInTheyGiveTheSame) {
  const std::string of = base_name(GetParam());
  const Npy expected(test_data / "adapters" / GetParam() / "logits.npy");
  const fs::path baked = directory_.path() / "baked.gguf";
  succeeds("vga-convert " + quoted(base(of)) + " --adapter " + quoted(adapter(GetParam())) +
           " -o " + quoted(baked) + " --type f32");
  EXPECT_LT(worst_error(logits(Model::load(baked), of), expected.values, expected.cols), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Tiny, PeftAdapters, testing::ValuesIn(all_cases()),
                         [](const auto& row) { return row.param; });

// -- Use ------------------------------------------------------------------------------------------

TEST_F(Adapters, OfAQuantizedBaseAreOffByItsRoundingAlone) {
  const fs::path f32 = directory_.path() / "wide-f32.gguf";
  convert(test_data / "cases/llama", f32, "f32");  // 64 wide, so that rows are whole blocks
  const fs::path file =
      directory_.write("wide-adapter.gguf", adapter_for(Gguf::open(f32), 5, 0.5f).bytes());
  const auto ids = nlohmann::json::parse(read_text(test_data / "cases/llama/tokens.json"))
                       .get<std::vector<Token>>();
  const auto wide_logits = [&](const fs::path& model, bool adapted) {
    ModelOptions options;
    if (adapted) options.adapters = {{file}};
    return logits_in_chunks(Model::load(model, options), {.n_threads = 1, .cache_type = DType::f32},
                            ids, 9);
  };
  for (const std::string type : {"q8_0", "q4_0", "q5_1"}) {
    const fs::path quantized = directory_.path() / (type + ".gguf");
    const fs::path decoded = directory_.path() / (type + "-decoded.gguf");
    succeeds("vga-quantize " + quoted(f32) + ' ' + quoted(quantized) + ' ' + type);
    succeeds("vga-quantize " + quoted(quantized) + ' ' + quoted(decoded) + " f32");
    const size_t vocab = Gguf::open(f32).find_tensor("token_embd.weight")->dims[1];
    // The CPU rounds what meets quantized weights; of what adapters add nothing is rounded.
    const double rounding =
        worst_error(wide_logits(quantized, false), wide_logits(decoded, false), vocab);
    const auto expected = wide_logits(decoded, true);
    EXPECT_LT(worst_error(wide_logits(quantized, true), expected, vocab),
              std::max(2 * rounding, 1e-5))
        << type;
    EXPECT_GT(worst_error(wide_logits(quantized, false), expected, vocab), 10 * rounding) << type;
  }
}

TEST_F(Adapters, OfManySequencesInABatchAreThoseOfEachAlone) {
  const Model model = Model::load(base("llama"), {.adapters = {{adapter("llama_gated")}}});
  const std::vector<Token> all = tokens("llama");
  Session session(model, {.context = 32, .n_sequences = 3, .cache_type = DType::f32});
  std::vector<Row> rows;
  for (uint32_t sequence = 0; sequence < 3; ++sequence) {
    for (size_t i = 0; i < 5 + sequence; ++i) {
      rows.push_back({all[sequence + i], static_cast<int64_t>(i), sequence, true});
    }
  }
  const auto batch = session.decode(rows);
  const std::vector<float> together(batch.begin(), batch.end());
  const size_t vocab = model.config().vocab_size;
  size_t first = 0;
  for (uint32_t sequence = 0; sequence < 3; ++sequence) {
    const std::span part(all.data() + sequence, 5 + sequence);
    const auto alone =
        logits_in_chunks(model, {.context = 32, .cache_type = DType::f32}, part, part.size());
    EXPECT_TRUE(
        same_logits(std::span(together).subspan(first, alone.size()), alone, vocab, DType::f32));
    first += alone.size();
  }
}

TEST_F(Adapters, SeveralAddUpAndAreScaled) {
  const fs::path a = adapter("llama");
  const fs::path b = adapter("llama_patterns");
  const Model base_model = Model::load(base("llama"));
  const size_t vocab = base_model.config().vocab_size;
  const auto plain = logits(base_model, "llama");
  const auto with = [&](const std::vector<AdapterOptions>& adapters) {
    return logits(base_model.with_adapters(adapters), "llama");
  };
  const auto both = with({{a, 0.5f}, {b, -1.5f}});
  EXPECT_LT(worst_error(with({{b, -1.5f}, {a, 0.5f}}), both, vocab), 1e-5);
  EXPECT_GT(worst_error(with({{a, 0.5f}}), both, vocab), 0.1);
  EXPECT_LT(worst_error(with({{a, 0}, {b, 0}}), plain, vocab), 1e-6);
  // Twice the half is the whole.
  EXPECT_LT(worst_error(with({{a, 0.5f}, {a, 0.5f}}), with({{a}}), vocab), 1e-5);
  // The same by W + 0.5 B A - 1.5 B' A'.
  const fs::path baked = directory_.path() / "baked.gguf";
  succeeds("vga-convert " + quoted(base("llama")) + " --adapter '" + a.string() +
           ":0.5' --adapter '" + b.string() + ":-1.5' -o " + quoted(baked) + " --type f32");
  EXPECT_LT(worst_error(logits(Model::load(baked), "llama"), both, vocab), 1e-4);
}

TEST_F(Adapters, SwitchWithoutLoadingTheBaseAgain) {
  const fs::path gated = adapter("llama_gated");
  const fs::path plain = adapter("llama");
  std::optional<Model> base_model = Model::load(base("llama"));
  const auto alone = logits(*base_model, "llama");
  const auto loaded = logits(Model::load(base("llama"), {.adapters = {{gated}}}), "llama");
  const std::vector<AdapterOptions> one = {{gated}};
  const std::vector<AdapterOptions> other = {{plain}};
  const Model with_gate = base_model->with_adapters(one);
  EXPECT_TRUE(with_gate.config().gate);
  EXPECT_EQ(with_gate.description(), base_model->description() + " + llama_gated-f32-adapter");
  EXPECT_GT(with_gate.weight_bytes(), base_model->weight_bytes());
  EXPECT_EQ(with_gate.parameters(), base_model->parameters());
  EXPECT_EQ(logits(with_gate, "llama"), loaded);
  EXPECT_EQ(logits(*base_model, "llama"), alone) << "the base has changed";
  base_model.reset();  // it is shared
  const Model with_other = with_gate.with_adapters(other);
  EXPECT_FALSE(with_other.config().gate) << "adapters are instead of those before";
  EXPECT_EQ(logits(with_other, "llama"),
            logits(Model::load(base("llama"), {.adapters = {{plain}}}), "llama"));
  EXPECT_EQ(logits(with_gate.with_adapters({}), "llama"), alone);
  EXPECT_EQ(logits(with_gate, "llama"), loaded);
}

TEST_F(Adapters, AreFlagsOfPrograms) {
  const std::string model = " -m " + quoted(base("llama")) + " -t 1";
  const std::string flag = " --adapter '" + adapter("llama_gated").string();
  const std::string ids = " --tokens 1,5,9,13,4,17,23,40";
  const auto perplexity = [&](const std::string& flags) {
    const Outcome outcome = run("vga-perplexity" + model + ids + " --json -c 8" + flags);
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    return nlohmann::json::parse(outcome.output)["perplexity"].get<double>();
  };
  const double plain = perplexity("");
  const double adapted = perplexity(flag + "'");
  EXPECT_NE(plain, adapted);
  EXPECT_EQ(perplexity(flag + ":1'"), adapted);
  EXPECT_NE(perplexity(flag + ":0.25'"), adapted);
  EXPECT_EQ(run("vga-bench" + model + " -p 2 -n 2 -r 1 -o json" + flag + "'").status, 0);

  const fs::path baked = directory_.path() / "baked.gguf";
  succeeds("vga-convert " + quoted(base("llama")) + flag + "' -o " + quoted(baked) + " --type f32");
  const auto w8a8 = [&](const std::string& of) {
    const Outcome outcome = run("vga-perplexity -t 1 --w8a8 --json -c 8" + ids + of);
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    return nlohmann::json::parse(outcome.output)["w8a8_perplexity"].get<double>();
  };
  const double rounded = w8a8(" -m " + quoted(baked));
  EXPECT_NEAR(w8a8(" -m " + quoted(base("llama")) + flag + "'"), rounded, 1e-3 * rounded);
}

TEST_F(Adapters, AreShownByInspect) {
  const auto shown = [](const std::string& arguments) {
    const Outcome outcome = run("vga-inspect " + arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    return outcome.output;
  };
  const fs::path gated = adapter("llama_gated");
  const auto alone = nlohmann::json::parse(shown("--json " + quoted(gated)));
  EXPECT_EQ(alone["runnable"], false);
  EXPECT_EQ(alone["adapter"]["alpha"], 8);
  EXPECT_EQ(alone["adapter"]["updates"].size(), 4);
  EXPECT_EQ(
      alone["adapter"]["updates"][0],
      (nlohmann::json{
          {"tensor", "attn_q.weight"}, {"layers", 2}, {"lowest_rank", 4}, {"highest_rank", 4}}));
  EXPECT_EQ(alone["adapter"]["attention_gate"]["source"], "value");
  const auto both = nlohmann::json::parse(
      shown("--json " + quoted(base("llama")) + " --adapter " + quoted(gated)));
  EXPECT_EQ(both["runnable"], true);
  EXPECT_EQ(both["attention_gate"]["source"], "value");
  EXPECT_EQ(both["adapters"][0]["alpha"], 8);
  const std::string text = shown(quoted(gated));
  EXPECT_NE(text.find("attn_q.weight: rank 4 in 2 layers"), std::string::npos) << text;
  EXPECT_NE(text.find("attn_gate.bias: whole in 2 layers"), std::string::npos) << text;
  EXPECT_NE(shown(quoted(base("llama")) + " --adapter " + quoted(gated))
                .find("attention gate: from the value"),
            std::string::npos);
}

// -- What does not fit ----------------------------------------------------------------------------

struct BadAdapter {
  const char* name;
  void (*change)(GgufImage& adapter);
  std::vector<const char*> says;
};

std::ostream& operator<<(std::ostream& out, const BadAdapter& bad) {
  return out << bad.name;
}

/// A tensor's name in the adapter of the rows below.
constexpr const char* query_a = "blk.1.attn_q.weight.lora_a";
constexpr const char* query_b = "blk.1.attn_q.weight.lora_b";

void add_vector(GgufImage& g, const std::string& name, size_t size, uint32_t type = 0) {
  g.tensors.push_back({name, {size}, type, std::string(size * (type == 0 ? 4 : 2), '\0'), {}});
}
void add_gate(GgufImage& g, size_t n_layers, size_t inputs = 16) {
  g.set("llama.attention.gate.source", "value");
  g.set("llama.attention.gate.placement", "output");
  g.set("llama.attention.gate.granularity", "head");
  for (size_t i = 0; i < n_layers; ++i) {
    const std::string name = "blk." + std::to_string(i) + ".attn_gate.weight";
    g.tensors.push_back({name, {inputs, 4}, 0, std::string(inputs * 4 * 4, '\0'), {}});
  }
}

const BadAdapter bad_adapters[] = {
    {"AModel", [](GgufImage& g) { g.remove("general.type"); }, {"general.type", "adapter"}},
    {"AnotherType",
     [](GgufImage& g) { g.set("general.type", "imatrix"); },
     {"general.type", "adapter", "imatrix"}},
    {"AnotherKind",
     [](GgufImage& g) { g.set("adapter.type", "control_vector"); },
     {"adapter.type", "lora", "control_vector"}},
    {"NoKind", [](GgufImage& g) { g.remove("adapter.type"); }, {"adapter.type"}},
    {"AnotherFamily",
     [](GgufImage& g) { g.set("general.architecture", "qwen2"); },
     {"general.architecture", "llama", "base.gguf", "qwen2"}},
    {"AnUnknownKey",
     [](GgufImage& g) { g.set("adapter.alora.invocation_tokens", 3u); },
     {"adapter.alora.invocation_tokens"}},
    {"AKeyOfTheModel",
     [](GgufImage& g) { g.set("llama.rope.freq_base", 5.0f); },
     {"llama.rope.freq_base"}},
    {"AlphaIsNaN",
     [](GgufImage& g) { g.set("adapter.lora.alpha", NAN); },
     {"adapter.lora.alpha", "nan"}},
    {"AlphaIsNoNumber",
     [](GgufImage& g) { g.set("adapter.lora.alpha", "16"); },
     {"adapter.lora.alpha"}},
    {"MissingA", [](GgufImage& g) { g.remove_tensor(query_a); }, {query_a, "missing"}},
    {"MissingB", [](GgufImage& g) { g.remove_tensor(query_b); }, {query_b, "missing"}},
    {"MoreInputs",
     [](GgufImage& g) {
       g.find_tensor(query_a)->dims = {25, 3};
       g.find_tensor(query_a)->data.resize(25 * 3 * 4);
     },
     {query_a, "(3, 24)", "base.gguf", "(3, 25)"}},
    {"FewerOutputs",
     [](GgufImage& g) {
       g.find_tensor(query_b)->dims = {3, 31};
       g.find_tensor(query_b)->data.resize(31 * 3 * 4);
     },
     {query_b, "(32, 3)", "(31, 3)"}},
    {"RanksDiffer",
     [](GgufImage& g) {
       g.find_tensor(query_b)->dims = {2, 32};
       g.find_tensor(query_b)->data.resize(2 * 32 * 4);
     },
     {query_b, "(outputs, rank)", "(3, 24)", "(32, 2)"}},
    {"AVectorForB",
     [](GgufImage& g) { g.find_tensor(query_b)->dims = {96}; },
     {query_b, "two dimensions", "(96)"}},
    {"AnUnknownType",
     [](GgufImage& g) {
       g.find_tensor(query_a)->type = 24;  // I8
       g.find_tensor(query_a)->data.resize(24 * 3);
     },
     {query_a, "I8"}},
    {"MoreLayers",
     [](GgufImage& g) {
       g.find_tensor("blk.1.ffn_up.weight.lora_a")->name = "blk.2.ffn_up.weight.lora_a";
       g.find_tensor("blk.1.ffn_up.weight.lora_b")->name = "blk.2.ffn_up.weight.lora_b";
     },
     {"blk.2.ffn_up.weight.lora_a", "base.gguf"}},
    {"OfTheEmbedding",
     [](GgufImage& g) {
       g.find_tensor(query_a)->name = "token_embd.weight.lora_a";
       g.find_tensor(query_b)->name = "token_embd.weight.lora_b";
     },
     {"token_embd.weight.lora_a", "base.gguf"}},
    {"AWholeMatrix",
     [](GgufImage& g) {
       g.tensors.push_back(
           {"blk.0.attn_q.weight", {24, 32}, 0, std::string(24 * 32 * 4, '\0'), {}});
     },
     {"blk.0.attn_q.weight", "base.gguf"}},
    {"AnUnknownTensor",
     [](GgufImage& g) { add_vector(g, "blk.0.mystery.bias", 8); },
     {"blk.0.mystery.bias"}},
    {"ANormTooLong",
     [](GgufImage& g) { add_vector(g, "blk.0.attn_norm.weight", 25); },
     {"blk.0.attn_norm.weight", "(24)", "(25)"}},
    {"ANormInF16",
     [](GgufImage& g) { add_vector(g, "blk.0.attn_norm.weight", 24, 1); },
     {"blk.0.attn_norm.weight", "f32", "f16"}},
    {"AGateWithoutKeys",
     [](GgufImage& g) {
       add_gate(g, 2);
       g.remove("llama.attention.gate.source");
     },
     {"blk.0.attn_gate.weight"}},
    {"AGateOfTooFewLayers",
     [](GgufImage& g) { add_gate(g, 1); },
     {"blk.1.attn_gate.weight", "missing"}},
    {"AGateOfTooManyLayers", [](GgufImage& g) { add_gate(g, 3); }, {"blk.2.attn_gate.weight"}},
    {"AGateOfOtherInputs",
     [](GgufImage& g) { add_gate(g, 2, 24); },
     {"blk.0.attn_gate.weight", "(4, 16)", "(4, 24)"}},
    {"AnUnknownGate",
     [](GgufImage& g) {
       add_gate(g, 2);
       g.set("llama.attention.gate.source", "query");
     },
     {"llama.attention.gate.source", "query"}},
    {"CutOff", [](GgufImage& g) { g.find_tensor(query_a)->data.resize(8); }, {"adapter.gguf"}},
};

class BadAdapters : public testing::TestWithParam<BadAdapter> {};

TEST_P(BadAdapters, AreRefusedInOneLine) {
  const TemporaryDirectory directory;
  const GgufImage model = family_model(
      "llama", 2, [](GgufImage&) {}, [](Config&) {});
  const fs::path base = directory.write("base.gguf", model.bytes());
  GgufImage image = adapter_for(Gguf::open(base), 3, 1);
  const fs::path good = directory.write("good.gguf", image.bytes());
  EXPECT_NO_THROW(Model::load(base, {.adapters = {{good}}, .device = "cpu"}));
  GetParam().change(image);
  const fs::path bad = directory.write("adapter.gguf", image.bytes());
  try {
    Model::load(base, {.adapters = {{bad}}, .device = "cpu"});
    FAIL() << "loaded";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), message.npos);
    EXPECT_NE(message.find("adapter.gguf"), message.npos) << message;
    for (const char* part : GetParam().says) {
      EXPECT_NE(message.find(part), message.npos) << message << " lacks " << part;
    }
    const Outcome outcome = run("vga-generate -m " + quoted(base) + " --adapter " + quoted(bad));
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(outcome.errors, "vga-generate: error: " + message + "\n");
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, BadAdapters, testing::ValuesIn(bad_adapters),
                         [](const auto& row) { return row.param.name; });

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(Adapters, ThatDoNotGoTogetherAreRefused) {
  const fs::path gated = adapter("llama_gated");
  const auto load = [&](const fs::path& base_file, const std::vector<AdapterOptions>& adapters) {
    return message_of([&] { Model::load(base_file, {.adapters = adapters}); });
  };
  EXPECT_NE(load(base("llama"), {{gated}, {gated}}).find("brings a gate, and so does"),
            std::string::npos);
  const fs::path biases = adapter("qwen2_biases");
  EXPECT_NE(load(base("qwen2"), {{biases}, {biases}}).find("replaced by two adapters"),
            std::string::npos);
  EXPECT_NE(load(base("llama"), {{gated, INFINITY}}).find("inf"), std::string::npos);
  EXPECT_NE(load(base("llama"), {{directory_.path() / "absent"}}).find("absent"),
            std::string::npos);
  EXPECT_NE(load(gated, {}).find("--adapter"), std::string::npos) << "an adapter is no model";
}

TEST_F(Adapters, AreConvertedForTheirBaseAlone) {
  const auto refused = [&](const std::string& arguments, const std::string& says) {
    const Outcome outcome = run("vga-convert " + arguments);
    EXPECT_EQ(outcome.status, 1);
    EXPECT_NE(outcome.errors.find(says), std::string::npos) << outcome.errors;
  };
  const std::string folder = quoted(test_data / "adapters/llama");
  const std::string out = " -o " + quoted(directory_.path() / "out.gguf");
  refused(folder + " --base " + quoted(base("qwen2")) + out, "lm_head");
  refused(folder + out, "--base");
  refused(folder + " --base " + quoted(base("llama")) + out + " --type q8_0", "--type");
  refused(folder + " --base " + quoted(base("llama")) + " --skip x" + out, "--skip");
  refused(folder + " --base " + quoted(base("llama")) + " -o " + quoted(base("llama")),
          "llama-f32");
  refused(quoted(base("llama")) + " --adapter " + quoted(adapter("qwen2_biases")) + out, "qwen2");
}

}  // namespace
}  // namespace vga::test
