#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace vga::cpu {

constexpr size_t max_threads = 0x3FF;

/// A pool of threads that runs one parallel loop at a time. Waiting threads spin for a few
/// microseconds, since the next loop of a forward pass is usually that close, then sleep in the
/// kernel, so an idle session costs nothing and an oversubscribed machine is not fought over.
///
/// A loop waits only for the workers that took part in it. One that wakes up late, because the
/// system runs something else on its core, finds the work done instead of holding everybody up.
class ThreadPool {
 public:
  /// The calling thread included; at least 1, at most max_threads.
  explicit ThreadPool(size_t n_threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  size_t size() const { return workers_.size() + 1; }

  /// Calls body(begin, end, thread) on disjoint ranges that cover [0, n), thread < size(), and
  /// returns when all are done. Ranges begin at multiples of `grain`; n <= grain runs right here.
  /// The body must not throw and must not call run().
  template <class Body>
  void run(size_t n, size_t grain, Body&& body) {
    run_erased(n, grain, &body, [](void* b, size_t begin, size_t end, size_t thread) {
      (*static_cast<std::remove_reference_t<Body>*>(b))(begin, end, thread);
    });
  }

 private:
  using Call = void (*)(void* body, size_t begin, size_t end, size_t thread);
  void run_erased(size_t n, size_t grain, void* body, Call call);
  void work(size_t thread);
  void take_chunks(size_t thread);
  void stop();

  // The loop in progress; only written while no worker takes part.
  void* body_ = nullptr;
  Call call_ = nullptr;
  size_t n_ = 0;
  size_t chunk_ = 0;
  uint32_t loop_ = 0;                        // its number
  unsigned spins_;                           // looks at an atomic before a thread sleeps
  alignas(64) std::atomic<size_t> next_{0};  // first index nobody has taken
  // The number of the loop in the upper bits, then whether workers may still join it, then how many
  // take part. One word, so that joining, leaving and closing see each other.
  alignas(64) std::atomic<uint32_t> state_{0};
  alignas(64) std::atomic<uint32_t> finished_{0};  // raised when the last worker left
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

/// Tasks of `work` multiply-adds each that are worth a thread's attention: handing over less costs
/// more than it saves.
constexpr size_t grain_for(size_t work) {
  constexpr size_t min_work = 1 << 15;
  return work < min_work ? min_work / (work + 1) : 1;
}

/// Physical cores that this process may use: what a session takes when nobody says otherwise.
size_t default_threads();

}  // namespace vga::cpu
