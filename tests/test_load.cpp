#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/kernels.h"
#include "gguf_image.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

/// The most memory that this process has held, in MiB.
long peak_mib() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

TEST(Load, HoldsAMatrixInTheFileAndInPanelsBandByBand) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "what the sanitizer takes beside each byte would count";
#endif
  if (cpu::best_kernels().lanes == 0) GTEST_SKIP() << "these kernels want no panels";
  constexpr uint32_t vocab = 1 << 20;
  const TemporaryDirectory directory;
  GgufImage image = tiny_model();
  std::erase_if(image.values, [](const auto& value) { return value.key.starts_with("tokenizer"); });
  image.set("vga.vocab_size", vocab);
  GgufImage::TensorImage& embedding = *image.find_tensor("token_embd.weight");
  embedding.dims[1] = vocab;
  embedding.data.assign(embedding.dims[0] * vocab * sizeof(float), '\0');
  const auto path = directory.write("wide.gguf", image.bytes());

  const pid_t child = ::fork();
  if (child == 0) {  // a process of its own, since a peak stays
    const long before = peak_mib();
    const Model model = Model::load(path, {.device = "cpu"});
    ::_exit(static_cast<int>(peak_mib() - before));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_GE(WEXITSTATUS(status), 96);  // MiB, the file: all of it is arranged
  EXPECT_LE(WEXITSTATUS(status), 96 + 64);
}

}  // namespace
}  // namespace vga::test
