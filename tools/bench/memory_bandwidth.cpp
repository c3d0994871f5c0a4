#include "bench/memory_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "common/terminal.h"
#include "cpu/threads.h"

namespace vga {
namespace {

constexpr size_t huge_page = size_t{2} << 20;
constexpr std::chrono::milliseconds time_to_read{400};

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

/// What stands behind `key` in a file of the system such as "32768K" or "MemAvailable: 1234 kB"; 0
/// if there is no such file or key.
size_t kib_in(const char* path, std::string_view key = {}) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return std::strtoull(line.c_str() + key.size(), nullptr, 10) << 10;
  }
  return 0;
}

/// Four times the caches that `n_threads` threads can have, as far as memory allows.
size_t buffer_bytes(size_t n_threads) {
  // A virtual machine may count the caches of all the host's cores, and a thread has one at most.
  const auto all = static_cast<size_t>(std::max(::sysconf(_SC_LEVEL3_CACHE_SIZE), 0L));
  const size_t one = kib_in("/sys/devices/system/cpu/cpu0/cache/index3/size");
  const size_t cache = one > 0 && all > 0 ? std::min(all, n_threads * one) : std::max(all, one);
  const size_t available = kib_in("/proc/meminfo", "MemAvailable:");
  const size_t most = std::min(size_t{1} << 30, available > 0 ? available / 4 : SIZE_MAX);
  const size_t bytes = std::min(std::max(size_t{256} << 20, 4 * cache), most);
  return std::max(bytes / huge_page, size_t{1}) * huge_page;
}

}  // namespace

double measure_memory_bandwidth(size_t n_threads) {
  Progress progress("how fast memory is read", static_cast<uint64_t>(time_to_read.count()));
  progress.update(0);
  const size_t bytes = buffer_bytes(n_threads);
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
  const auto first = std::chrono::steady_clock::now();
  for (auto start = first; start < first + time_to_read && !interrupted();) {
    threads.run(n, grain, [&](size_t begin, size_t end, size_t thread) {
      sums[thread] += sum(words + begin, end - begin);
    });
    const auto end = std::chrono::steady_clock::now();
    best = std::max(
        best, static_cast<double>(bytes) / std::chrono::duration<double>(end - start).count());
    progress.update(static_cast<uint64_t>((end - first) / std::chrono::milliseconds(1)));
    start = end;
  }
  return best;
}

}  // namespace vga
