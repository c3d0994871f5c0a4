/// Attention over contexts of many pages: that it costs no memory that grows with them, and that
/// how the pages are shared out changes nothing.

#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cpu/attention.h"
#include "sanitized.h"

namespace vga::cpu {
namespace {

constexpr size_t head_dim = 64;
constexpr size_t n_heads = 16;
constexpr size_t n_kv_heads = 2;

CacheShape shape_of(size_t n_pages, size_t n_slots) {
  return {.kind = 0,
          .n_layers = 1,
          .n_slots = n_slots,
          .n_kept = 0,
          .n_ring = n_pages * page_positions,
          .n_kv_heads = n_kv_heads,
          .head_dim = head_dim,
          .type = DType::f16};
}

Batch batch_of(std::span<const BatchRow> rows, std::span<const int64_t> first) {
  Batch batch{};
  batch.rows = rows;
  batch.first_visible = first;
  return batch;
}

Attention::Queries queries_of(const std::vector<float>& q) {
  return {.n_heads = n_heads,
          .q = q.data(),
          .q_kept = nullptr,
          .gate = nullptr,
          .n_gates = 0,
          .spec = {.scale = 0.125f}};
}

/// What the last position of each slot attends to; those of odd slots see half as much.
std::vector<float> attend(const CpuCache& cache, size_t n_threads, size_t n_slots) {
  const CacheShape& shape = cache.shape();
  const auto last = static_cast<int64_t>(shape.n_ring) - 7;
  std::vector<BatchRow> rows;
  for (uint32_t slot = 0; slot < n_slots; ++slot) {
    rows.push_back({.token = 0, .slot = slot, .position = slot % 2 == 0 ? last : last / 2});
  }
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> q(n_slots * n_heads * head_dim);
  for (float& x : q) x = normal(random);
  std::vector<float> out(q.size());
  const std::vector<int64_t> first(n_slots);
  ThreadPool threads(n_threads);
  Attention attention(best_kernels(), threads);
  attention.run(batch_of(rows, first), cache, 0, queries_of(q), out.data());
  return out;
}

TEST(AttentionTest, HowPagesAreSharedOutDoesNotMatter) {
  constexpr size_t n_pages = 230;
  const CpuCache cache(shape_of(n_pages, 2));
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  std::vector<float> x(head_dim);
  for (size_t slot = 0; slot < 2; ++slot) {
    for (size_t position = 0; position < n_pages * page_positions; ++position) {
      for (size_t head = 0; head < n_kv_heads; ++head) {
        const size_t page = position / page_positions;
        for (float& value : x) value = normal(random);
        best_kernels().write_key(DType::f16, x.data(), head_dim, cache.keys(slot, page, 0, head),
                                 position % page_positions);
        best_kernels().write_value(DType::f16, x.data(), head_dim,
                                   cache.values(slot, page, 0, head), position % page_positions);
      }
    }
  }
  const auto whole = attend(cache, 1, 2);  // a task is a block of heads with all of its pages
  for (const size_t n_threads : {2, 3, 7}) {
    EXPECT_EQ(attend(cache, n_threads, 2), whole) << n_threads;
  }
  // Wave by wave even on one thread.
  const auto first = attend(cache, 1, 1);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), whole.begin()));
}

size_t anonymous_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return 1024 * std::stoul(line.substr(8));
  }
  return 0;
}

TEST(AttentionTest, ItsMemoryDoesNotGrowWithTheContext) {
  if (test::sanitized) GTEST_SKIP() << "a sanitizer keeps notes on all that is read";
  constexpr size_t n_pages = 4096;  // a million positions, all of them the zero page
  const CpuCache cache(shape_of(n_pages, 1));
  const CpuCache short_cache(shape_of(4, 1));
  ThreadPool threads(2);
  const std::vector<float> q(n_heads * head_dim, 0.1f);
  std::vector<float> out(q.size());
  Attention attention(best_kernels(), threads);
  const auto run = [&](const CpuCache& in) {
    const BatchRow row{
        .token = 0, .slot = 0, .position = static_cast<int64_t>(in.shape().n_ring) - 1};
    const int64_t first = 0;
    attention.run(batch_of({&row, 1}, {&first, 1}), in, 0, queries_of(q), out.data());
  };
  run(short_cache);
  const size_t before = anonymous_bytes();
  run(cache);
  // All sums at once would be 4096 pages of 16 heads of 66 floats, 17 MB.
  EXPECT_LT(anonymous_bytes(), before + (4u << 20));
}

}  // namespace
}  // namespace vga::cpu
