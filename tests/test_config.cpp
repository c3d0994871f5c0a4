/// What metadata means where files say the same in several ways.

#include <gtest/gtest.h>

#include "gguf_image.h"
#include "logits.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

/// The logits of some tokens, far enough along for a scaling of positions to show.
std::vector<float> logits(const GgufImage& image) {
  const TemporaryDirectory directory;
  const Model model = Model::load(directory.write("m.gguf", image.bytes()));
  Session session(model, {.n_threads = 1});
  const std::vector<Token> tokens = {1, 5, 9, 5, 7, 30, 4, 4, 12, 21};
  const auto last = prefill(session, tokens);
  return {last.begin(), last.end()};
}

std::vector<float> logits_with(std::string_view key, float value) {
  GgufImage image = tiny_model();
  image.set("vga." + std::string(key), value);
  return logits(image);
}

TEST(Config, RopeScaleIsLinearUnlessTheFileSaysNone) {
  const auto plain = logits(tiny_model());
  const auto halved = logits_with("rope.scaling.factor", 2);
  EXPECT_NE(plain, halved);
  EXPECT_EQ(logits_with("rope.scale_linear", 2), halved);
  EXPECT_EQ(logits_with("rope.scaling.factor", 0), plain);

  GgufImage image = tiny_model();
  image.set("vga.rope.scaling.factor", 2.f);
  image.set("vga.rope.scaling.type", "linear");
  EXPECT_EQ(logits(image), halved);
  image.set("vga.rope.scaling.type", "none");
  EXPECT_EQ(logits(image), plain);
}

TEST(Config, RopeFactorsDivideEachFrequency) {
  GgufImage image = tiny_model();
  image.set_rope_factors({2, 2, 2, 2});
  EXPECT_EQ(logits(image), logits_with("rope.scaling.factor", 2));

  image = tiny_model();
  image.set_rope_factors({1, 1, 2, 4});
  const auto factors = logits(image);
  EXPECT_NE(factors, logits(tiny_model()));
  // Both kinds of scaling at once multiply.
  image.set("vga.rope.scaling.factor", 2.f);
  const auto both = logits(image);
  image = tiny_model();
  image.set_rope_factors({2, 2, 4, 8});
  EXPECT_EQ(logits(image), both);
}

}  // namespace
}  // namespace vga::test
