// Speed of the CPU kernels on one thread: weights read per second when decoding, multiply-adds when
// prefilling, cache read per second when attending. VGA_CPU chooses the table.

#include <random>
#include <vector>

#include <benchmark/benchmark.h>

#include "cpu/kernels.h"
#include "cpu/kv_cache.h"
#include "cpu/large_memory.h"
#include "cpu/panels.h"
#include "cpu/threads.h"
#include "gguf/encode.h"

namespace vga::cpu {
namespace {

std::vector<float> random_floats(size_t n) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(n);
  for (float& value : values) value = uniform(random);
  return values;
}

std::vector<std::byte> encoded(DType type, size_t n) {
  std::vector<std::byte> bytes(row_bytes(type, n));
  encode_row(type, random_floats(n), bytes.data());
  return bytes;
}

/// What decoding is compared with: a sum over more memory than the caches hold.
void read_memory(benchmark::State& state) {
  const std::vector<uint64_t> data(size_t{32} << 20, 1);
  for (auto _ : state) {
    uint64_t sum[8] = {};
    for (size_t i = 0; i < data.size(); i += 8) {
      for (size_t j = 0; j < 8; ++j) sum[j] += data[i + j];
    }
    benchmark::DoNotOptimize(sum);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(data.size() * 8));
}
BENCHMARK(read_memory)->Unit(benchmark::kMillisecond);

/// A matrix of n_rows x 2048, with the given number of tokens.
void project(benchmark::State& state, DType type) {
  constexpr size_t cols = 2048;
  const Kernels& kernels = best_kernels();
  const auto n_rows = static_cast<size_t>(state.range(0));
  const auto n_tokens = static_cast<size_t>(state.range(1));
  const auto rows = encoded(type, n_rows * cols);
  Tensor w{.type = type, .rows = n_rows, .cols = cols, .data = rows.data()};
  LargeMemory panels;
  if (kernels.lanes > 0) {
    const size_t n = n_panels(w, kernels.lanes);
    panels = large_memory(n * panel_bytes(w, kernels.lanes));
    for (size_t i = 0; i < n; ++i) write_panel(w, i, kernels.lanes, panels.get());
    w.data = panels.get();
    w.layout = Layout::panels;
  }
  const auto x = random_floats(n_tokens * cols);
  std::vector<float> prepared(prepared_size(n_tokens, cols));
  std::vector<float> out(n_tokens * n_rows);
  for (auto _ : state) {
    kernels.prepare(type, x.data(), 0, n_tokens, cols, prepared.data());
    kernels.project(w, 0, n_rows, prepared.data(), n_tokens, out.data(), n_rows, false);
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(rows.size()));
  state.counters["flop/s"] = benchmark::Counter(2.0 * static_cast<double>(n_rows * cols * n_tokens),
                                                benchmark::Counter::kIsIterationInvariantRate);
}

/// Decoding and prefill at 2048 x 2048, then decoding from memory that no cache holds.
void shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "tokens"})->Args({2048, 1})->Args({2048, 4})->Args({2048, 512});
  b->Args({40000, 1})->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(project, f32, DType::f32)->Apply(shapes);
BENCHMARK_CAPTURE(project, f16, DType::f16)->Apply(shapes);
BENCHMARK_CAPTURE(project, bf16, DType::bf16)->Apply(shapes);
BENCHMARK_CAPTURE(project, q8_0, DType::q8_0)->Apply(shapes);
BENCHMARK_CAPTURE(project, q4_0, DType::q4_0)->Apply(shapes);
BENCHMARK_CAPTURE(project, q4_1, DType::q4_1)->Apply(shapes);
BENCHMARK_CAPTURE(project, q5_0, DType::q5_0)->Apply(shapes);
BENCHMARK_CAPTURE(project, q5_1, DType::q5_1)->Apply(shapes);
BENCHMARK_CAPTURE(project, q4_k, DType::q4_k)->Apply(shapes);
BENCHMARK_CAPTURE(project, q5_k, DType::q5_k)->Apply(shapes);
BENCHMARK_CAPTURE(project, q6_k, DType::q6_k)->Apply(shapes);

/// Some queries of 64 elements over the pages of one KV head, the longest from memory.
void attend(benchmark::State& state, DType type) {
  constexpr size_t head_dim = 64;
  const auto depth = static_cast<size_t>(state.range(0));
  const auto n_queries = static_cast<size_t>(state.range(1));
  const Kernels& kernels = best_kernels();
  const CpuCache cache({.kind = 0,
                        .n_layers = 1,
                        .n_slots = 1,
                        .n_kept = 0,
                        .n_ring = depth,
                        .n_kv_heads = 1,
                        .head_dim = head_dim,
                        .type = type});
  const auto row = random_floats(head_dim);
  for (size_t p = 0; p < depth; ++p) {
    const size_t page = p / page_positions;
    kernels.write_key(type, row.data(), head_dim, cache.keys(0, page, 0, 0), p % page_positions);
    kernels.write_value(type, row.data(), head_dim, cache.values(0, page, 0, 0),
                        p % page_positions);
  }
  const auto q = random_floats(n_queries * head_dim);
  const std::vector<uint32_t> begin(n_queries, 0);
  const std::vector<uint32_t> end(n_queries, page_positions);
  std::vector<float> out(n_queries * (head_dim + 2));
  std::vector<float> scratch(attend_scratch(head_dim));
  for (auto _ : state) {
    for (size_t page = 0; page < depth / page_positions; ++page) {
      kernels.attend({type, head_dim, 0.125f, 0, cache.keys(0, page, 0, 0),
                      cache.values(0, page, 0, 0), q.data(), n_queries, begin.data(), end.data(),
                      out.data(), out.data() + n_queries, out.data() + 2 * n_queries},
                     scratch.data());
    }
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(cache.shape().bytes()));
  state.counters["flop/s"] =
      benchmark::Counter(4.0 * static_cast<double>(depth * head_dim * n_queries),
                         benchmark::Counter::kIsIterationInvariantRate);
}
void depths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"depth", "queries"})->ArgsProduct({{512, 4096, 1 << 19}, {1, 3, 4, 7, 24}});
  b->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(attend, f32, DType::f32)->Apply(depths);
BENCHMARK_CAPTURE(attend, f16, DType::f16)->Apply(depths);
BENCHMARK_CAPTURE(attend, q8_0, DType::q8_0)->Apply(depths);

/// What a parallel loop costs that does nothing.
void empty_loop(benchmark::State& state) {
  ThreadPool threads(static_cast<size_t>(state.range(0)));
  for (auto _ : state) {
    threads.run(64, 1, [](size_t begin, size_t, size_t) { benchmark::DoNotOptimize(begin); });
  }
}
BENCHMARK(empty_loop)->ArgName("threads")->Arg(1)->Arg(2)->Arg(7)->UseRealTime();

}  // namespace
}  // namespace vga::cpu
