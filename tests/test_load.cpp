#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <thread>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/kernels.h"
#include "gguf_image.h"
#include "sanitized.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

/// The most memory that this process has held, in MiB.
long peak_mib() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

/// What this process has of the address space.
uint64_t address_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmSize:")) return 1024 * std::stoull(line.substr(7));
  }
  return 0;
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

// Under a limit that has room for the file, which is mapped, but not for what is arranged anew.
TEST(Load, SaysHowMuchMemoryWeightsTake) {
  if (sanitized) GTEST_SKIP() << "what the sanitizer takes beside each byte would count";
  if (cpu::best_kernels().lanes == 0) GTEST_SKIP() << "these kernels want no panels";
  constexpr uint32_t vocab = 1 << 20;
  const TemporaryDirectory directory;
  GgufImage image = tiny_model();
  std::erase_if(image.values, [](const auto& value) { return value.key.starts_with("tokenizer"); });
  image.set("vga.vocab_size", vocab);
  const auto embedding =
      std::ranges::find(image.tensors, "token_embd.weight", &GgufImage::TensorImage::name);
  embedding->dims[1] = vocab;
  embedding->data.clear();
  std::rotate(embedding, embedding + 1, image.tensors.end());
  const uint64_t bytes = image.tensors.back().dims[0] * vocab * sizeof(float);
  const auto path = directory.write("wide.gguf", image.bytes());
  std::filesystem::resize_file(path, std::filesystem::file_size(path) + bytes);  // of zeros
  for (const bool mmap : {true, false}) {
    const pid_t child = ::fork();
    if (child == 0) {
      rlimit limit{};
      ::getrlimit(RLIMIT_AS, &limit);
      limit.rlim_cur = address_bytes() + (mmap ? bytes * 3 / 2 : bytes / 2);
      ::setrlimit(RLIMIT_AS, &limit);
      std::string message;
      try {
        const Model model = Model::load(path, {.mmap = mmap, .device = "cpu"});
      } catch (const std::exception& error) {
        message = error.what();
      }
      const bool good = message.find("wide.gguf takes 96.0 MiB") != std::string::npos &&
                        message.find("vga-quantize") != std::string::npos;
      if (!good) std::cerr << message << std::endl;
      ::_exit(good ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << mmap;
  }
}

size_t count_threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

TEST(Load, OnAsManyThreadsAsASessionShallHave) {
  if (cpu::best_kernels().lanes == 0) GTEST_SKIP() << "these kernels want no panels";
  const TemporaryDirectory directory;
  const auto path = directory.write("tiny.gguf", tiny_model().bytes());
  constexpr size_t n_threads = 40;
  std::atomic<size_t> most = 0;
  std::atomic<bool> done = false;
  std::thread observer([&] {
    while (!done) most = std::max(most.load(), count_threads());
  });
  // This one, the observer, a driver's that was used before, a sanitizer's, which begins with the
  // first that a program starts.
  const size_t others = count_threads();
  const auto load = [&](size_t n) {
    const Model model = Model::load(path, {.device = "cpu", .session = {.n_threads = n}});
  };
  for (int i = 0; i < 20; ++i) load(1);
  EXPECT_LE(most, others + 1);  // one reads the tokenizer meanwhile
  for (int i = 0; i < 1000 && most < others + n_threads - 1; ++i) load(n_threads);
  done = true;
  observer.join();
  EXPECT_GE(most, others + n_threads - 1);
}

}  // namespace
}  // namespace vga::test
