/// vga-probe and vga-perplexity --w8a8: figures against PyTorch's (tests/make_probe_cases.py) and
/// against models whose answers are known beforehand.

#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "gguf_image.h"
#include "run_program.h"

namespace vga::test {
namespace {

using Gate = AttentionGate;
using nlohmann::json;

/// Every number of `expected` stands at the same place in `found`.
void expect_same(const json& found, const json& expected, const std::string& where) {
  if (expected.is_object()) {
    for (const auto& [key, value] : expected.items()) {
      ASSERT_TRUE(found.contains(key)) << where << '.' << key;
      expect_same(found[key], value, std::string(where).append(1, '.').append(key));
    }
  } else if (expected.is_array()) {
    ASSERT_EQ(found.size(), expected.size()) << where;
    for (size_t i = 0; i < expected.size(); ++i) {
      expect_same(found[i], expected[i], where + '[' + std::to_string(i) + ']');
    }
  } else if (expected.is_number()) {
    ASSERT_TRUE(found.is_number()) << where;
    const double size = std::max(1.0, std::abs(expected.get<double>()));
    EXPECT_NEAR(found.get<double>(), expected.get<double>(), 1e-5 * size) << where;
  } else {
    EXPECT_EQ(found, expected) << where;
  }
}

class ProbeReference : public testing::TestWithParam<std::string> {
 protected:
  ProbeReference() {
    const std::string folder = VGA_SOURCE_DIR "/tests/data/cases/" + GetParam();
    const std::string model = (directory_.path() / "model.gguf").string();
    convert(folder, model, "f32");
    expected = json::parse(read_text(folder + "/probe.json"));
    std::string ids;
    for (const int id : expected.at("ids")) ids += (ids.empty() ? "" : ",") + std::to_string(id);
    arguments = " -m '" + model + "' -c 64 --json --tokens " + ids;
  }

  json expected;
  std::string arguments;

 private:
  TemporaryDirectory directory_;
};

TEST_P(ProbeReference, FiguresAreThoseOfPyTorch) {
  const Outcome outcome = run("vga-probe" + arguments);
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  expect_same(json::parse(outcome.output), expected.at("probe"), "");
}

// A number halfway between two integers may be rounded to the other one in another precision, so
// this cannot be as tight; a wrong range or a tensor left out costs several percent.
TEST_P(ProbeReference, Int8PerplexityIsThatOfPyTorch) {
  const Outcome outcome = run("vga-perplexity --w8a8" + arguments);
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  const json found = json::parse(outcome.output);
  const auto nll = [](const json& report, const char* key) {
    return std::log(report.at(key).get<double>());
  };
  const json& w8a8 = expected.at("w8a8");
  EXPECT_NEAR(nll(found, "perplexity"), nll(w8a8, "perplexity"), 1e-5);
  EXPECT_NEAR(nll(found, "w8a8_perplexity"), nll(w8a8, "w8a8_perplexity"), 2e-3);
  EXPECT_GT(std::abs(nll(w8a8, "w8a8_perplexity") - nll(w8a8, "perplexity")), 4e-4);
  EXPECT_DOUBLE_EQ(found.at("delta"), found.at("w8a8_perplexity").get<double>() -
                                          found.at("perplexity").get<double>());
}

INSTANTIATE_TEST_SUITE_P(PyTorch, ProbeReference,
                         testing::Values("llama", "value_output_head_bias", "value_value_head_bias",
                                         "value_value_element", "input_output_element"),
                         [](const auto& row) { return row.param; });

/// A model whose every figure is known. <s> is 3 e_0 in the residual stream and all other tokens
/// are 4 e_1; nothing is ever added to that. Every query looks for e_0, at the slowest frequency of
/// RoPE, so all attention is on <s>. Values of e_0 are zero, of e_1 they are not.
class HandMade : public testing::Test {
 protected:
  static GgufImage model(Gate gate, float gate_bias) {
    GgufImage image = tiny_model(32, gate);
    for (auto& tensor : image.tensors) {
      const auto ends = [&](std::string_view end) { return tensor.name.ends_with(end); };
      if (ends("norm.weight")) continue;
      const size_t cols = tensor.dims[0];
      const size_t rows = tensor.dims.size() > 1 ? tensor.dims[1] : 1;
      std::string data;
      for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < cols; ++c) {
          float x = 0;
          if (tensor.name == "token_embd.weight") x = r == 1 ? 3.0f * (c == 0) : 4.0f * (c == 1);
          if (ends("attn_q.weight") && r % 8 == 3) x = 100.0f * (c < 2);
          if (ends("attn_k.weight") && r % 8 == 3) x = 100.0f * (c == 0);
          if (ends("attn_v.weight")) x = static_cast<float>(c == 1);
          if (ends("attn_gate.bias")) x = gate_bias;
          data += raw(x);
        }
      }
      tensor.data = data;
    }
    return image;
  }

  json probe(Gate gate, float gate_bias = 0) {
    const auto path = directory_.write("model.gguf", model(gate, gate_bias).bytes());
    const auto text = directory_.write("text", std::string(200, 'a'));
    const Outcome outcome =
        run("vga-probe --json -m '" + path.string() + "' -f '" + text.string() + "'");
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    return json::parse(outcome.output);
  }

  TemporaryDirectory directory_;
};

TEST_F(HandMade, PerfectSinkAndDrainedValue) {
  const json report = probe({});
  EXPECT_EQ(report.at("tokens"), 192);  // 3 blocks of 64; the rest is dropped
  EXPECT_EQ(report.at("sink_rate"), 1);
  // The largest number is what a norm makes of one element among 24: their root.
  EXPECT_NEAR(report.at("max_inf_norm"), std::sqrt(24), 1e-4);
  EXPECT_EQ(report.at("max_layer_inf_norm"), 4);
  for (const json& layer : report.at("layers")) {
    EXPECT_EQ(layer.at("first_attention"), json({1, 1, 1, 1}));
    EXPECT_EQ(layer.at("gated_first_attention"), json({1, 1, 1, 1}));
    EXPECT_EQ(layer.at("sink_rate"), 1);
    EXPECT_EQ(layer.at("value_norm_ratio"), json({0, 0}));
    EXPECT_TRUE(layer.at("gate_mean").is_null());
    EXPECT_EQ(layer.at("value_norm_first"), json({0, 0}));
    for (const double delta : layer.at("delta_logit")) EXPECT_GT(delta, 1e4);
    EXPECT_EQ(layer.at("residual_norm_first"), 3);
    EXPECT_EQ(layer.at("residual_norm_others"), 4);
  }
  // Of 64 rows of 24 with one element each, 3 or 4: the moments are sums over these.
  const double n = 64 * 24;
  const double mean = (3 + 63 * 4) / n;
  const auto moment = [&](double power) {
    return std::pow(3 - mean, power) + 63 * std::pow(4 - mean, power) +
           (n - 64) * std::pow(mean, power);
  };
  const double variance = moment(2) / (n - 1);
  for (const json& tensor : report.at("tensors")) {
    const std::string name = tensor.at("name");
    if (name.ends_with(".block")) {
      EXPECT_NEAR(tensor.at("kurtosis"), moment(4) / n / (variance * variance + 1e-6), 1e-4);
    }
    if (name.ends_with(".attn_output")) {
      EXPECT_EQ(tensor.at("inf_norm"), 0);
      EXPECT_EQ(tensor.at("kurtosis"), 0);
    }
  }
}

// Attention that is even: a query gives the first token one part in as many as it sees.
TEST_F(HandMade, QueriesThatAreLeftOut) {
  GgufImage image = model({}, 0);
  for (auto& tensor : image.tensors) {
    if (tensor.name.ends_with("attn_q.weight")) tensor.data.assign(tensor.data.size(), '\0');
  }
  const auto path = directory_.write("even.gguf", image.bytes());
  const auto mean_of = [&](const std::string& arguments) {
    const Outcome outcome =
        run("vga-probe --json --tokens 1,5,6,5 -m '" + path.string() + "'" + arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    const json layer = json::parse(outcome.output).at("layers")[1];
    EXPECT_NEAR(layer.at("delta_logit")[2], 0, 1e-12);
    return layer.at("first_attention")[2].get<double>();
  };
  EXPECT_NEAR(mean_of(""), (1 + 1.0 / 2 + 1.0 / 3 + 1.0 / 4) / 4, 1e-12);
  EXPECT_NEAR(mean_of(" --leave-out 5"), (1 + 1.0 / 3) / 2, 1e-12);
  EXPECT_NEAR(mean_of(" --leave-out 1,6"), (1.0 / 2 + 1.0 / 4) / 2, 1e-12);
  const Outcome none = run("vga-probe --tokens 1,5,6,5 --leave-out 5,6 -m '" + path.string() + "'");
  EXPECT_EQ(none.status, 1);
  EXPECT_NE(none.errors.find("--leave-out: leaves no query"), std::string::npos) << none.errors;
}

TEST_F(HandMade, ClosedGatesLetNothingThrough) {
  for (const auto placement : {Gate::Placement::output, Gate::Placement::value}) {
    for (const auto granularity : {Gate::Granularity::head, Gate::Granularity::element}) {
      const json report = probe({Gate::Source::value, placement, granularity, true}, -1000);
      EXPECT_EQ(report.at("sink_rate"), 1);  // attention is taken before any gate
      for (const json& layer : report.at("layers")) {
        for (const double share : layer.at("first_attention")) EXPECT_EQ(share, 1);
        for (const char* key : {"gated_first_attention", "gate_mean", "gate_first"}) {
          ASSERT_EQ(layer.at(key).size(), 4u);
          for (const double x : layer.at(key)) EXPECT_NEAR(x, 0, 1e-9) << key;
        }
        EXPECT_EQ(layer.at("gate_below_0.1"), json({1, 1, 1, 1}));
        EXPECT_EQ(layer.at("gate_above_0.9"), json({0, 0, 0, 0}));
      }
    }
  }
}

TEST_F(HandMade, OpenGatesLetEverythingThrough) {
  const json report =
      probe({Gate::Source::input, Gate::Placement::output, Gate::Granularity::head, true}, 1000);
  for (const json& layer : report.at("layers")) {
    for (const double x : layer.at("gated_first_attention")) EXPECT_NEAR(x, 1, 1e-6);
    for (const double x : layer.at("gate_above_0.9")) EXPECT_NEAR(x, 1, 1e-12);
  }
}

class ProbeProgram : public testing::Test {
 protected:
  Outcome run(const std::string& program, const std::string& arguments) {
    return test::run(program + " -m '" + model_.string() + "' " + arguments);
  }
  std::string text(size_t n) {
    std::string letters;
    for (size_t i = 0; i < n; ++i) letters += static_cast<char>('a' + (i * i * 7 + i * 3) % 24);
    return "-f '" + directory_.write("text", letters).string() + "' ";
  }

  TemporaryDirectory directory_;
  std::filesystem::path model_ = directory_.write("tiny.gguf", tiny_model().bytes());
};

TEST_F(ProbeProgram, PageStandsByItself) {
  const std::string page = (directory_.path() / "page.html").string();
  const Outcome outcome = run("vga-probe", text(300) + "--heads 0.1,1.3 --html '" + page + "'");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_NE(outcome.output.find("sink rate"), std::string::npos);
  EXPECT_EQ(outcome.errors, "");
  const std::string html = read_text(page);
  EXPECT_TRUE(html.starts_with("<!DOCTYPE html>"));
  EXPECT_TRUE(html.ends_with("</body></html>\n"));
  for (const char* outside : {"http", "src=", "url(", "<script", "<link", "nan", "inf\""}) {
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  }
  for (const char* inside : {"layer 0, head 1", "layer 1, head 3", "attention times gate",
                             "Where heads look", "What gates do", "<svg", "</table>"}) {
    EXPECT_NE(html.find(inside), std::string::npos) << inside;
  }
}

TEST_F(ProbeProgram, ThreadsChangeNothing) {
  const Outcome one = run("vga-probe", text(300) + "--json -t 1");
  EXPECT_EQ(one.output, run("vga-probe", text(300) + "--json -t 3").output);
  const Outcome int8 = run("vga-perplexity", text(300) + "--w8a8 -t 1");
  EXPECT_EQ(int8.output, run("vga-perplexity", text(300) + "--w8a8 -t 3").output);
  EXPECT_NE(int8.output.find("in 8 bits"), std::string::npos);
}

TEST_F(ProbeProgram, SaysWhatIsWrong) {
  const auto says = [&](const std::string& program, const std::string& arguments,
                        const std::string& what) {
    const Outcome outcome = run(program, arguments);
    EXPECT_NE(outcome.status, 0) << arguments;
    EXPECT_EQ(outcome.output, "");
    EXPECT_NE(outcome.errors.find(what), std::string::npos) << outcome.errors;
  };
  says("vga-probe", "--tokens 3", "at least 2 tokens");
  says("vga-probe", text(100) + "-c 1", "--context");
  says("vga-probe", text(100) + "--heads 2.0", "from 0.0 to 1.3, found 2.0");
  says("vga-probe", text(100) + "--heads 1", "LAYER.HEAD");
  // Also the last one, which is only predicted, or not looked at.
  for (const char* program : {"vga-probe", "vga-perplexity -c 4", "vga-perplexity --window 2"}) {
    says(program, "--tokens 3,4,5,99", "--tokens: wanted ids from 0 to 31, found 99");
    says(program, "--tokens 3,4,5,-1", "--tokens: wanted ids from 0 to 31, found -1");
  }
  says("vga-probe", "--tokens 3,4 --leave-out 32", "--leave-out: wanted ids from 0 to 31");
  says("vga-probe", text(100) + "--html /nowhere/page.html", "/nowhere");
  says("vga-probe", text(100) + "--html '" + model_.string() + "'", "is the input itself");
  says("vga-perplexity", text(100) + "--w8a8 --window 20", "--window");
  says("vga-perplexity", text(100) + "--calibrate x", "--w8a8");
  says("vga-perplexity", text(100) + "--w8a8 --calibrate /nowhere", "/nowhere");
}

}  // namespace
}  // namespace vga::test
