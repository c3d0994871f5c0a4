/// A tiny checkpoint of every family: tests/make_family_cases.py wrote them and what transformers
/// makes of them; here they are converted by vga-convert and run.

#include <algorithm>
#include <filesystem>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "gguf_image.h"
#include "logits.h"
#include "model/families.h"
#include "npy.h"
#include "run_program.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

namespace fs = std::filesystem;

const fs::path families = fs::path(VGA_SOURCE_DIR) / "tests/data/families";

std::vector<std::string> all_cases() {
  std::vector<std::string> names;
  for (const auto& folder : fs::directory_iterator(families)) {
    names.push_back(folder.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

class FamilyCheckpoints : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = families / GetParam();
    file_ = directory_.path() / "model.gguf";
    convert(folder_, file_, "f32");
    tokens_ = nlohmann::json::parse(read_text(folder_ / "tokens.json")).get<std::vector<Token>>();
  }

  /// A session as long as the text, as it chooses among divisors of RoPE's frequencies.
  std::vector<float> logits(size_t chunk, size_t n_threads = 1) const {
    const SessionOptions options{
        .context = tokens_.size(), .n_threads = n_threads, .cache_type = DType::f32};
    return logits_in_chunks(Model::load(file_), options, tokens_, chunk);
  }

  TemporaryDirectory directory_;
  fs::path folder_;
  fs::path file_;
  std::vector<Token> tokens_;
};

TEST_P(FamilyCheckpoints, LogitsAreThoseOfTransformers) {
  const Npy expected(folder_ / "logits.npy");
  const auto whole = logits(tokens_.size());
  EXPECT_LT(worst_error(whole, expected.values, expected.cols), on_device() ? 1e-3 : 3e-4);
  EXPECT_TRUE(same_logits(logits(33), whole, expected.cols, DType::f32));
  EXPECT_TRUE(same_logits(logits(1), whole, expected.cols, DType::f32));
  if (on_device()) return;  // which has its own threads
  EXPECT_TRUE(same_logits(logits(50, 7), whole, expected.cols, DType::f32)) << "seven threads";
}

TEST_P(FamilyCheckpoints, AConfigIsReadAsItWasWritten) {
  const Gguf gguf = Gguf::open(file_);
  const Config config = read_config(gguf);
  GgufWriter writer;
  write_config(config, writer);
  // The tensors tell some options, so they go along.
  for (const GgufTensor& tensor : gguf.tensors()) writer.add_tensor(tensor);
  OutputFile out(directory_.path() / "again.gguf");
  writer.begin(out);
  for (const GgufTensor& tensor : gguf.tensors()) {
    out.write(tensor.data);
    writer.pad(out);
  }
  out.commit();
  EXPECT_EQ(read_config(Gguf::open(directory_.path() / "again.gguf")), config);
}

INSTANTIATE_TEST_SUITE_P(Tiny, FamilyCheckpoints, testing::ValuesIn(all_cases()),
                         [](const auto& row) { return row.param; });

}  // namespace
}  // namespace vga::test
