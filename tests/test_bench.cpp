#include <chrono>
#include <map>
#include <set>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "bench/bench_flags.h"
#include "bench/memory_bandwidth.h"
#include "gguf_image.h"
#include "logits.h"
#include "run_program.h"
#include "vga/vga.h"

namespace vga::test {
namespace {

using Numbers = std::vector<size_t>;

TEST(BenchNumbers, ListsAndRanges) {
  EXPECT_EQ(read_numbers("-p", "512"), Numbers({512}));
  EXPECT_EQ(read_numbers("-p", "1,2,1"), Numbers({1, 2, 1}));
  EXPECT_EQ(read_numbers("-p", "3-5"), Numbers({3, 4, 5}));
  EXPECT_EQ(read_numbers("-p", "7-7"), Numbers({7}));
  EXPECT_EQ(read_numbers("-p", "0-10+4,9"), Numbers({0, 4, 8, 9}));
  EXPECT_EQ(read_numbers("-p", "16-100*2"), Numbers({16, 32, 64}));
  EXPECT_EQ(read_numbers("-p", "0-999").size(), 1000u);
}

TEST(BenchNumbers, RefusesWhatHasNoEndOrNoSense) {
  for (const char* text : {"",
                           "x",
                           "1,",
                           ",1",
                           "1,,2",
                           "1 2",
                           "-1",
                           "1-",
                           "5-4",
                           "1-9+0",
                           "1-9*1",
                           "0-9*2",
                           "1-9+",
                           "1-9-2",
                           "2*3",
                           "1+1",
                           "0-1000",
                           "1.5",
                           "0x10",
                           "99999999999999999999",
                           "1-99999999999"}) {
    EXPECT_THROW(read_numbers("-p", text), Error) << text;
  }
}

TEST(Bench, MemoryBandwidthIsPlausible) {
  const double bandwidth = measure_memory_bandwidth(2);
  EXPECT_GT(bandwidth, 1e8);
  EXPECT_LT(bandwidth, 1e13);
}

class BenchTest : public testing::Test {
 protected:
  /// vga-bench on a tiny model.
  Outcome bench(const std::string& flags) { return run("vga-bench -m '" + file_ + "' " + flags); }

  TemporaryDirectory directory_;
  std::string file_ = directory_.write("tiny.gguf", tiny_model().bytes()).string();
};

TEST_F(BenchTest, JsonHasTheFields) {
  const Outcome outcome =
      bench("-p 20 -n 4 -pg 8,2 -d 0,9 -t 1,2 -b 16 -ub 8 -ctk f32 -r 3 -o json");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_EQ(outcome.errors, "");
  const auto results = nlohmann::json::parse(outcome.output);
  ASSERT_EQ(results.size(), 3u * 2 * 2);
  std::set<std::vector<size_t>> tests;
  for (const auto& r : results) {
    const size_t n_prompt = r.at("n_prompt");
    const size_t n_gen = r.at("n_gen");
    tests.insert({n_prompt, n_gen, r.at("n_depth"), r.at("n_threads")});
    EXPECT_EQ(r.at("type_k"), "f32");
    EXPECT_EQ(r.at("type_v"), "f32");
    EXPECT_EQ(r.at("n_batch"), 16);
    EXPECT_EQ(r.at("n_ubatch"), 8);
    EXPECT_EQ(r.at("model_filename"), file_);
    EXPECT_EQ(r.at("model_type").get<std::string>().substr(0, 4), "vga ");
    EXPECT_GT(r.at("model_size"), 0);
    EXPECT_GT(r.at("model_n_params"), 0);
    EXPECT_EQ(r.at("backends"), on_device() ? "Vulkan" : "CPU");
    EXPECT_EQ(r.at("runs_on").get<std::string>().substr(0, 4), on_device() ? "vulk" : "cpu ");
    EXPECT_EQ(r.at("host_ns_per_token").is_null(), !on_device());
    for (const char* text : {"build_commit", "cpu_info", "test_time"}) {
      EXPECT_TRUE(r.at(text).is_string()) << text;
    }

    const std::vector<double> ns = r.at("samples_ns");
    const std::vector<double> rates = r.at("samples_ts");
    ASSERT_EQ(ns.size(), 3u);
    ASSERT_EQ(rates.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_NEAR(rates[i] * ns[i] / 1e9, static_cast<double>(n_prompt + n_gen), 1e-6);
    }
    EXPECT_NEAR(r.at("avg_ns"), (ns[0] + ns[1] + ns[2]) / 3, 1);
    EXPECT_NEAR(r.at("avg_ts"), (rates[0] + rates[1] + rates[2]) / 3, 1e-6 * rates[0]);
    EXPECT_GE(r.at("stddev_ns"), 0);
    EXPECT_GE(r.at("stddev_ts"), 0);

    const double bandwidth = r.at("bandwidth_gb_per_s");
    EXPECT_GT(bandwidth, 0);
    if (n_prompt == 0) {
      EXPECT_GT(r.at("gb_per_s"), 0);
      EXPECT_NEAR(r.at("bandwidth_share"), r.at("gb_per_s").get<double>() / bandwidth, 1e-9);
    } else {
      EXPECT_TRUE(r.at("gb_per_s").is_null());
      EXPECT_TRUE(r.at("bandwidth_share").is_null());
    }
  }
  EXPECT_EQ(tests.size(), results.size());
}

// All sequences count, and each reads its own keys and values.
TEST_F(BenchTest, SequencesDecodeTogether) {
  const Outcome outcome = bench("-p 6 -n 4 -npl 1,3 -d 0,5 -t 1 -r 2 -o json");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  std::map<std::pair<size_t, size_t>, double> bytes;  // by depth and sequences
  for (const auto& r : nlohmann::json::parse(outcome.output)) {
    const size_t n = r.at("n_sequences");
    const double tokens = n * (r.at("n_prompt").get<double>() + r.at("n_gen").get<double>());
    const double seconds = r.at("samples_ns").at(1).get<double>() / 1e9;
    EXPECT_NEAR(r.at("samples_ts").at(1).get<double>() * seconds, tokens, 1e-6);
    if (r.at("n_prompt") == 0) {
      bytes[{r.at("n_depth"), n}] = r.at("gb_per_s").get<double>() * r.at("avg_ns").get<double>();
    }
  }
  ASSERT_EQ(bytes.size(), 4u);
  const auto deeper = [&](size_t n) { return bytes.at({5, n}) - bytes.at({0, n}); };
  EXPECT_GT(deeper(1), 0);
  EXPECT_NEAR(deeper(3), 3 * deeper(1), 0.05 * deeper(1));
  EXPECT_NE(bench("-p 0 -n 4 -npl 3 -t 1 -r 1").output.find(" tg4 x 3 |"), std::string::npos);
  EXPECT_NE(bench("-npl 0").status, 0);
}

// What llama.cpp's own scripts ask of each row.
TEST_F(BenchTest, RowsHaveAllOfLlamaBenchsFields) {
  const Outcome outcome = bench("-p 4 -n 0 -t 1 -r 1 -o jsonl");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  const auto row = nlohmann::json::parse(outcome.output);
  for (const char* field : {"build_commit", "cpu_info", "gpu_info", "backends", "model_filename",
                            "model_type", "cpu_mask", "type_k", "type_v", "split_mode", "devices",
                            "tensor_split", "tensor_buft_overrides", "load_mode", "test_time"}) {
    EXPECT_TRUE(row.at(field).is_string()) << field;
  }
  for (const char* field :
       {"build_number", "model_size", "model_n_params", "n_batch", "n_ubatch", "n_threads", "poll",
        "n_gpu_layers", "n_cpu_moe", "main_gpu", "flash_attn", "no_op_offload", "fit_target",
        "fit_min_ctx", "n_prompt", "n_gen", "n_depth", "avg_ns", "stddev_ns"}) {
    EXPECT_TRUE(row.at(field).is_number_integer()) << field;
  }
  for (const char* field : {"cpu_strict", "no_kv_offload", "embeddings", "no_host"}) {
    EXPECT_TRUE(row.at(field).is_boolean()) << field;
  }
  for (const char* field : {"avg_ts", "stddev_ts"}) {
    EXPECT_TRUE(row.at(field).is_number_float()) << field;
  }
}

TEST_F(BenchTest, SqlHasLlamaBenchsFieldsAlone) {
  file_ = directory_.write("it's.gguf", tiny_model().bytes()).string();
  const Outcome outcome =
      run("vga-bench -m \"" + file_ + "\" -p 4 -n 2 -t 1 -r 1 -o sql -oe jsonl");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  const std::string& sql = outcome.output;
  EXPECT_EQ(sql.rfind("CREATE TABLE IF NOT EXISTS llama_bench (\n  build_commit TEXT,\n", 0), 0u);
  EXPECT_NE(sql.find("  n_gen INTEGER,\n"), std::string::npos) << sql;
  EXPECT_NE(sql.find("  no_host INTEGER,\n"), std::string::npos) << sql;
  EXPECT_NE(sql.find("  stddev_ts REAL\n);\n"), std::string::npos) << sql;
  EXPECT_NE(sql.find("/it''s.gguf', "), std::string::npos) << sql;
  EXPECT_EQ(sql.find("window"), std::string::npos);
  size_t n = 0;
  for (size_t at = 0; (at = sql.find("\nINSERT INTO llama_bench (", at)) != std::string::npos;
       ++at) {
    ++n;
  }
  EXPECT_EQ(n, 2u) << sql;
  EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 2);  // the same rows, as jsonl
  EXPECT_EQ(outcome.errors.rfind("{\"build_commit\":", 0), 0u) << outcome.errors;
}

TEST_F(BenchTest, FlagsOfLlamaBenchsDoNotStopAScript) {
  const Outcome outcome = bench(
      "-p 4 -n 0 -t 1 -r 1 -o jsonl -fa 0,1 -ngl 0,-1 -mmp 0,1 -ts 1 -sm row -C 0x3 --cpu-strict 1 "
      "--poll 0 --prio -1 --numa distribute -v -mg 0 -nkvo 0,1 -embd 0 -ot 'blk.*=CPU' -nopo 1 "
      "--no_host 0 --delay 0 -oe none -dev none -ncmoe 1 -dio 0 -fitt 1 -fitc 1");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 3) << outcome.errors;
  for (const char* text : {"--tensor-split, ", "--no-host, ", "\nnote: -fa: ", "\nnote: -ngl: "}) {
    EXPECT_NE(outcome.errors.find(text), std::string::npos) << text << "\n" << outcome.errors;
  }
  std::set<std::pair<int, std::string>> rows;
  std::istringstream lines(outcome.output);
  for (std::string line; std::getline(lines, line);) {
    const auto row = nlohmann::json::parse(line);
    rows.emplace(row.at("n_gpu_layers"), row.at("load_mode"));
    EXPECT_EQ(row.at("flash_attn"), 1);
    EXPECT_EQ(row.at("devices"), "cpu");
  }
  EXPECT_EQ(rows, (std::set<std::pair<int, std::string>>{
                      {0, "none"}, {0, "mmap"}, {-1, "none"}, {-1, "mmap"}}));
}

TEST_F(BenchTest, WaitsBeforeEachTest) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(bench("-p 2,4 -n 0 -t 1 -r 1 --delay 1").status, 0);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

// Each decoded token reads the weights and the keys and values of everything before it.
TEST_F(BenchTest, BytesReadGrowWithDepth) {
  const Outcome outcome = bench("-p 0 -n 2 -d 0,10 -t 1 -r 1 -ctk f32 -o json");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  const auto results = nlohmann::json::parse(outcome.output);
  const auto bytes = [&](size_t i) {
    return results.at(i).at("gb_per_s").get<double>() * results[i].at("avg_ns").get<double>();
  };
  const Model model = Model::load(file_);
  const Config& c = model.config();
  const double per_position = 2.0 * 4 * static_cast<double>(c.n_layers() * c.kv_size());
  const double weights = 2 * static_cast<double>(model.bytes_per_token());
  EXPECT_NEAR(bytes(0), weights + per_position * (1 + 2), 1);
  EXPECT_NEAR(bytes(1), weights + per_position * (11 + 12), 1);
}

// Behind a window a token reads the same, however deep it is.
TEST_F(BenchTest, WindowBoundsWhatIsRead) {
  const size_t n = on_device() ? 30 : 300;
  const size_t depth = on_device() ? 70 : 700;
  const Outcome outcome = bench("-p 0 -n " + std::to_string(n) + " -d 4," + std::to_string(depth) +
                                " -t 1 -r 2 -ub 8 -ctk f32 --window 0,9 --keep 2 -o json");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  const auto results = nlohmann::json::parse(outcome.output);
  ASSERT_EQ(results.size(), 4u);
  const Model model = Model::load(file_);
  const Config& c = model.config();
  const double per_position = 2.0 * 4 * static_cast<double>(c.n_layers() * c.kv_size());
  const double weights = static_cast<double>(n * model.bytes_per_token());
  const size_t growing = n * (n + 1) / 2;  // 1 + ... + n
  const size_t seen[] = {n * 4 + growing, n * depth + growing, 5 + 6 + 7 + 8 + (n - 4) * 9, n * 9};
  for (size_t i = 0; i < 4; ++i) {
    const auto& r = results[i];
    EXPECT_EQ(r.at("window"), i < 2 ? 0 : 9);
    EXPECT_EQ(r.at("keep"), i < 2 ? 0 : 2);
    const double bytes = weights + per_position * static_cast<double>(seen[i]);
    EXPECT_NEAR(r.at("gb_per_s").get<double>() * r.at("avg_ns").get<double>(), bytes, 1e-6 * bytes);
  }
}

// Each a little less deep than the last: none is more than a batch from the one before.
TEST_F(BenchTest, WindowGoesBackAnyWay) {
  const Outcome outcome =
      bench("-p 0 -n 1 -d 100,95,90,85,80 -t 1 -r 1 -ub 8 --no-warmup --window 9 -o jsonl");
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_EQ(std::ranges::count(outcome.output, '\n'), 5);
}

TEST_F(BenchTest, OneJsonValuePerLine) {
  const Outcome outcome = bench("-p 4 -n 2 -t 1 -r 1 -o jsonl --no-warmup -fa 1 -ngl 0");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  std::istringstream lines(outcome.output);
  size_t n = 0;
  for (std::string line; std::getline(lines, line); ++n) {
    EXPECT_TRUE(nlohmann::json::parse(line).is_object());
  }
  EXPECT_EQ(n, 2u);
}

TEST_F(BenchTest, CsvHasAsManyFieldsAsItsHeader) {
  const Outcome outcome = bench("-p 4 -n 2 -t 1 -r 1 -o csv");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  std::istringstream lines(outcome.output);
  std::string header;
  std::getline(lines, header);
  EXPECT_NE(header.find("n_prompt,n_gen,n_depth,"), std::string::npos) << header;
  size_t n = 0;
  for (std::string line; std::getline(lines, line); ++n) {
    ptrdiff_t n_separators = 0;
    for (size_t at = 0; (at = line.find("\",\"", at)) != std::string::npos; ++at) ++n_separators;
    EXPECT_EQ(n_separators, std::ranges::count(header, ',')) << line;
    EXPECT_EQ(std::ranges::count(line, '"'), 2 * (n_separators + 1)) << line;
  }
  EXPECT_EQ(n, 2u);
}

TEST_F(BenchTest, TableHasARowForEachTest) {
  const Outcome outcome = bench("-p 4 -n 2 -d 3 -t 1 -r 2");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  for (const char* text : {" pp4 @ d3 |", " tg2 @ d3 |", " t/s |", " ± ", "GB/s", "build: "}) {
    EXPECT_NE(outcome.output.find(text), std::string::npos) << text << "\n" << outcome.output;
  }
}

TEST_F(BenchTest, BadFlagsEndInOneLine) {
  for (const char* flags : {"-p x",
                            "-n 5-4",
                            "-d 0-8*2",
                            "-t 0",
                            "-t 5000",
                            "-pg 3",
                            "-ctk q3",
                            "-ctk iq2_xs",
                            "-ctk f16 -ctv f32",
                            "-b 0",
                            "-ub 0",
                            "-p 0 -n 0",
                            "-b 99999 -ub 99999",
                            "--window 8 --keep 8",
                            "-o xml",
                            "-r 0",
                            "-r x",
                            "--nonsense",
                            "--keep 3",
                            "-o"}) {
    const Outcome outcome = bench(flags);
    EXPECT_EQ(outcome.status, 1) << flags;
    EXPECT_EQ(outcome.output, "") << flags;
    EXPECT_EQ(outcome.errors.rfind("vga-bench: error: ", 0), 0u) << outcome.errors;
    EXPECT_EQ(std::ranges::count(outcome.errors, '\n'), 1) << outcome.errors;
  }
  const Outcome missing = run("vga-bench -m /does/not/exist.gguf");
  EXPECT_EQ(missing.status, 1);
  EXPECT_EQ(std::ranges::count(missing.errors, '\n'), 1) << missing.errors;
}

}  // namespace
}  // namespace vga::test
