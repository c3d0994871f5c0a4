#include "cpu/threads.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif

#include "base/cgroup.h"

namespace vga::cpu {
namespace {

constexpr uint32_t member = 1;             // one worker that takes part
constexpr uint32_t members = max_threads;  // all of them: the bits below the next one
constexpr uint32_t open_bit = 0x400;
constexpr uint32_t loop_shift = 11;

/// Chunks per thread: more balance the load better, fewer are handed out faster.
constexpr size_t chunks_per_thread = 4;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Returns once `value` is not `old`.
uint32_t wait_while(const std::atomic<uint32_t>& value, uint32_t old, unsigned spins) {
  for (unsigned i = 0; i < spins; ++i) {
    const uint32_t now = value.load(std::memory_order_acquire);
    if (now != old) return now;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(size_t n_threads)
    : spins_(n_threads <= std::thread::hardware_concurrency() ? 500 : 0) {
  n_threads = std::clamp<size_t>(n_threads, 1, max_threads);
  workers_.reserve(n_threads - 1);
  try {
    for (size_t i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {  // the system has no more threads: do not leave the others behind
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  stop_.store(true, std::memory_order_relaxed);
  state_.store(++loop_ << loop_shift, std::memory_order_release);
  state_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_erased(size_t n, size_t grain, void* body, Call call) {
  if (n == 0) return;
  if (n <= grain || workers_.empty()) {
    call(body, 0, n, 0);
    return;
  }
  grain = std::max<size_t>(grain, 1);
  const size_t n_chunks = size() * chunks_per_thread;
  const size_t grains = (n - 1) / grain + 1;
  body_ = body;
  call_ = call;
  n_ = n;
  chunk_ = ((grains - 1) / n_chunks + 1) * grain;
  next_.store(0, std::memory_order_relaxed);
  const uint32_t loop = ++loop_ << loop_shift;
  state_.store(loop | open_bit, std::memory_order_release);
  state_.notify_all();

  take_chunks(0);
  const uint32_t before = finished_.load(std::memory_order_relaxed);
  if ((state_.fetch_and(~open_bit, std::memory_order_acq_rel) & members) != 0) {
    wait_while(finished_, before, spins_);  // the last worker to leave raises it
  }
}

void ThreadPool::take_chunks(size_t thread) {
  for (;;) {
    const size_t begin = next_.fetch_add(chunk_, std::memory_order_relaxed);
    if (begin >= n_) return;
    call_(body_, begin, std::min(begin + chunk_, n_), thread);
  }
}

void ThreadPool::work(size_t thread) {
  uint32_t seen = 0;  // number of the last loop that this worker took part in
  uint32_t state = state_.load(std::memory_order_acquire);
  for (;;) {
    if (stop_.load(std::memory_order_relaxed)) return;
    const bool joinable = (state & open_bit) != 0 && state >> loop_shift != seen;
    if (!joinable) {
      state = wait_while(state_, state, spins_);
      continue;
    }
    if (!state_.compare_exchange_weak(state, state + member, std::memory_order_acq_rel)) continue;
    seen = state >> loop_shift;
    take_chunks(thread);
    state = state_.fetch_sub(member, std::memory_order_acq_rel) - member;
    if ((state & (members | open_bit)) == 0) {
      finished_.fetch_add(1, std::memory_order_release);
      finished_.notify_one();
    }
  }
}

#if defined(__linux__)

size_t default_threads() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return std::max(1u, std::thread::hardware_concurrency());
  }
  std::set<std::string> cores;  // each named by the list of its hardware threads
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string number = std::to_string(cpu);
    std::ifstream file("/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list");
    std::string siblings;
    cores.insert(file >> siblings ? siblings : number);
  }
  return std::min({cores.size(), cgroup_cores(), max_threads});
}

#else

size_t default_threads() {
  return std::clamp<size_t>(std::thread::hardware_concurrency(), 1, max_threads);
}

#endif

}  // namespace vga::cpu
