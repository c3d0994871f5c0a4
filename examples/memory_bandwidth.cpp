#include "memory_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "cpu/threads.h"

namespace vga {
namespace {

constexpr size_t huge_page = size_t{2} << 20;
constexpr size_t n_passes = 10;

/// Two streams with four vector accumulators each keep a core's load units and prefetcher busy.
uint64_t sum(const uint64_t* words, size_t n) {
  const uint64_t* const halves[2] = {words, words + n / 2};
  uint64_t sums[2][8] = {};
  for (size_t i = 0; i + 8 <= n / 2; i += 8) {
    for (size_t half = 0; half < 2; ++half) {
      for (size_t j = 0; j < 8; ++j) sums[half][j] += halves[half][i + j];
    }
  }
  uint64_t total = 0;
  for (const auto& half : sums) {
    for (const uint64_t part : half) total += part;
  }
  return total;
}

/// Four times the caches, in whole huge pages.
size_t buffer_bytes() {
  const auto cache = static_cast<size_t>(std::max(::sysconf(_SC_LEVEL3_CACHE_SIZE), 0L));
  return std::max(size_t{256} << 20, 4 * cache) / huge_page * huge_page;
}

}  // namespace

double measure_memory_bandwidth(size_t n_threads) {
  const size_t bytes = buffer_bytes();
  const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(huge_page, bytes),
                                                           &std::free);
  if (!memory) throw std::bad_alloc();
  ::madvise(memory.get(), bytes, MADV_HUGEPAGE);  // a wish; small pages measure a bit less

  auto* const words = static_cast<uint64_t*>(memory.get());
  constexpr size_t grain = (size_t{1} << 20) / sizeof(uint64_t);
  const size_t n = bytes / sizeof(uint64_t);
  cpu::ThreadPool threads(n_threads);
  // Pages that were never written are all the same page of zeros.
  threads.run(n, grain,
              [&](size_t begin, size_t end, size_t) { std::fill(words + begin, words + end, 1); });

  std::vector<uint64_t> sums(n_threads);  // kept, so that the reading is not optimised away
  double best = 0;
  for (size_t pass = 0; pass < n_passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    threads.run(n, grain, [&](size_t begin, size_t end, size_t thread) {
      sums[thread] += sum(words + begin, end - begin);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(bytes) / seconds.count());
  }
  return best;
}

}  // namespace vga
