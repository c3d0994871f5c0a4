/// Logits against the PyTorch reference. tests/make_cases.py wrote the checkpoints and what the
/// reference makes of them; here they are converted by vga-convert and run.

#include <algorithm>
#include <cctype>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "gguf_image.h"
#include "logits.h"
#include "npy.h"
#include "run_program.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

const std::filesystem::path cases = std::filesystem::path(VGA_SOURCE_DIR) / "tests/data/cases";

struct ReferenceCase {
  std::string name;
  std::string type;
};

std::ostream& operator<<(std::ostream& out, const ReferenceCase& c) {
  return out << c.name << ' ' << c.type;
}

/// Every stored logits file is a case.
std::vector<ReferenceCase> reference_cases() {
  std::vector<ReferenceCase> found;
  for (const auto& folder : std::filesystem::directory_iterator(cases)) {
    for (const std::string type : {"f32", "f16", "bf16", "q8_0"}) {
      if (std::filesystem::exists(folder.path() / ("logits_" + type + ".npy"))) {
        found.push_back({folder.path().filename().string(), type});
      }
    }
  }
  std::ranges::sort(found, {}, [](const ReferenceCase& c) { return c.name + c.type; });
  return found;
}

class Reference : public testing::TestWithParam<ReferenceCase> {};

TEST_P(Reference, LogitsAgree) {
  const auto& [case_name, type] = GetParam();
  const auto folder = cases / case_name;
  const TemporaryDirectory directory;
  const auto file = directory.path() / "model.gguf";
  convert(folder, file, type);

  const Model model = Model::load(file);
  const auto tokens =
      nlohmann::json::parse(read_text(folder / "tokens.json")).get<std::vector<Token>>();
  const SessionOptions options{.n_threads = 2, .cache_type = DType::f32};
  Npy expected(folder / ("logits_" + type + ".npy"));
  ASSERT_EQ(expected.rows, tokens.size());
  ASSERT_EQ(expected.cols, model.config().vocab_size);
  if (on_device() && type == "q8_0") {
    // The CPU rounds what q8_0 is multiplied by, and so does the reference; a device does not, nor
    // does the CPU with the same weights in f32.
    const auto decoded = directory.path() / "decoded.gguf";
    ASSERT_EQ(run("vga-quantize '" + file.string() + "' '" + decoded.string() + "' f32").status, 0);
    expected.values =
        logits_in_chunks(Model::load(decoded, {.device = "cpu"}), options, tokens, tokens.size());
  }

  const auto logits = logits_in_chunks(model, options, tokens, tokens.size());
  ASSERT_EQ(logits.size(), expected.values.size());
  const double worst = worst_error(logits, expected.values, expected.cols);
  RecordProperty("relative_error", std::to_string(worst));
  EXPECT_LT(worst, type == "f32" ? 1e-4 : 1e-3);
}

INSTANTIATE_TEST_SUITE_P(PyTorch, Reference, testing::ValuesIn(reference_cases()),
                         [](const auto& row) {
                           std::string name = row.param.name + "_" + row.param.type;
                           std::ranges::replace_if(
                               name, [](char c) { return !std::isalnum(c); }, '_');
                           return name;
                         });

}  // namespace
}  // namespace vga::test
