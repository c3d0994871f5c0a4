/// One small Llama in the ways in which people save models: tests/make_checkpoints.py wrote them
/// and what transformers makes of them; here they are converted by vga-convert and run.

#include <algorithm>
#include <filesystem>

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

namespace fs = std::filesystem;

const fs::path checkpoints = fs::path(VGA_SOURCE_DIR) / "tests/data/checkpoints";

std::vector<std::string> all_checkpoints() {
  std::vector<std::string> names;
  for (const auto& folder : fs::directory_iterator(checkpoints)) {
    names.push_back(folder.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

class Checkpoints : public testing::TestWithParam<std::string> {};

TEST_P(Checkpoints, LogitsAreThoseOfTransformers) {
  const fs::path folder = checkpoints / GetParam();
  std::string flags;
  if (fs::exists(folder / "flags")) flags = read_text(folder / "flags");
  const TemporaryDirectory directory;
  const fs::path file = directory.path() / "model.gguf";
  const Outcome outcome = run("vga-convert '" + folder.string() + "' -o '" + file.string() +
                              "' --type f32 " + flags.substr(0, flags.find('\n')));
  ASSERT_EQ(outcome.status, 0) << outcome.errors;

  const auto tokens =
      nlohmann::json::parse(read_text(folder / "tokens.json")).get<std::vector<Token>>();
  const Model model = Model::load(file);
  const auto found =
      logits_in_chunks(model, {.n_threads = 1, .cache_type = DType::f32}, tokens, tokens.size());
  const Npy expected(folder / "logits.npy");
  EXPECT_LT(worst_error(found, expected.values, expected.cols), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Saved, Checkpoints, testing::ValuesIn(all_checkpoints()),
                         [](const auto& row) { return row.param; });

}  // namespace
}  // namespace vga::test
