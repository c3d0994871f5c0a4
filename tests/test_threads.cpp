#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "cpu/threads.h"

namespace vga::cpu {
namespace {

TEST(ThreadPoolTest, CoversEveryIndexOnce) {
  for (const size_t n_threads : {1, 2, 3, 7}) {
    ThreadPool threads(n_threads);
    ASSERT_EQ(threads.size(), n_threads);
    for (const size_t grain : {0, 1, 3, 8, 100}) {
      for (const size_t n : {0, 1, 2, 7, 8, 9, 64, 1000}) {
        std::vector<int> visits(n);
        threads.run(n, grain, [&](size_t begin, size_t end, size_t thread) {
          EXPECT_LT(thread, n_threads);
          EXPECT_LT(begin, end);
          EXPECT_LE(end, n);
          EXPECT_EQ(begin % std::max<size_t>(grain, 1), 0u);
          for (size_t i = begin; i < end; ++i) ++visits[i];
        });
        EXPECT_EQ(visits, std::vector<int>(n, 1)) << n << " by " << grain << " on " << n_threads;
      }
    }
  }
}

TEST(ThreadPoolTest, GivesEveryThreadItsOwnNumber) {
  ThreadPool threads(4);
  std::vector<size_t> counts(4);  // not atomic: a number shared by two threads would be a race
  for (int loop = 0; loop < 200; ++loop) {
    threads.run(32, 1,
                [&](size_t begin, size_t end, size_t thread) { counts[thread] += end - begin; });
  }
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), size_t{0}), 32u * 200);
}

TEST(ThreadPoolTest, RunsAShortLoopOnTheCaller) {
  ThreadPool threads(3);
  const auto caller = std::this_thread::get_id();
  threads.run(8, 8, [&](size_t begin, size_t end, size_t thread) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_EQ(begin, 0u);
    EXPECT_EQ(end, 8u);
    EXPECT_EQ(thread, 0u);
  });
}

TEST(ThreadPoolTest, LoopsSeeWhatEarlierLoopsWrote) {
  ThreadPool threads(3);
  std::vector<size_t> values(100, 0);
  for (size_t loop = 0; loop < 5000; ++loop) {
    threads.run(100, 1, [&](size_t begin, size_t end, size_t) {
      for (size_t i = begin; i < end; ++i) values[99 - (i + loop) % 100] += 1;
    });
  }
  EXPECT_EQ(values, std::vector<size_t>(100, 5000));
}

TEST(ThreadPoolTest, WorkersThatSleptJoinAgain) {
  ThreadPool threads(2);
  for (int loop = 0; loop < 5; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    // Ends only when both threads take part: each waits for the other's chunk.
    std::atomic<int> arrived{0};
    threads.run(2, 1, [&](size_t, size_t, size_t) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
    EXPECT_EQ(arrived, 2);
  }
}

TEST(ThreadPoolTest, PoolsOfDifferentThreadsAreIndependent) {
  std::vector<size_t> sums(4);
  std::vector<std::thread> users;
  for (size_t user = 0; user < sums.size(); ++user) {
    users.emplace_back([&sums, user] {
      ThreadPool threads(3);
      for (int loop = 0; loop < 500; ++loop) {
        std::atomic<size_t> sum{0};
        threads.run(50, 2, [&](size_t begin, size_t end, size_t) { sum += end - begin; });
        sums[user] += sum;
      }
    });
  }
  for (std::thread& user : users) user.join();
  EXPECT_EQ(sums, std::vector<size_t>(4, 50 * 500));
}

TEST(ThreadPoolTest, IsCheapToCreateAndDestroy) {
  for (int i = 0; i < 200; ++i) {
    ThreadPool threads(3);
    if (i % 2 == 0) threads.run(10, 1, [](size_t, size_t, size_t) {});
  }
}

TEST(ThreadPoolTest, DefaultThreadsAreAtLeastOneAndNoMoreThanTheHardware) {
  EXPECT_GE(default_threads(), 1u);
  EXPECT_LE(default_threads(), std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace vga::cpu
