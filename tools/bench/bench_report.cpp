#include "bench/bench_report.h"

#include <cmath>
#include <fstream>
#include <numeric>
#include <ostream>

#include <nlohmann/json.hpp>

#include "common/format.h"
#include "vga/vga.h"

namespace vga {
namespace {

using nlohmann::ordered_json;

/// As the system names it; empty where it does not.
std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "";
}

std::vector<double> tokens_per_second(const BenchResult& r) {
  std::vector<double> rates;
  for (const uint64_t ns : r.samples_ns) {
    rates.push_back(1e9 * static_cast<double>(r.test.timed_tokens()) / static_cast<double>(ns));
  }
  return rates;
}

template <class T>
double mean(const std::vector<T>& samples) {
  return std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size());
}

/// Of the sample; 0 for a single one.
template <class T>
double standard_deviation(const std::vector<T>& samples) {
  if (samples.size() < 2) return 0;
  const double middle = mean(samples);
  double sum = 0;
  for (const T sample : samples) sum += std::pow(static_cast<double>(sample) - middle, 2);
  return std::sqrt(sum / static_cast<double>(samples.size() - 1));
}

/// Bytes read per second, averaged over the repetitions.
double bytes_per_second(const BenchResult& r) {
  return 1e9 * static_cast<double>(r.bytes_read) / mean(r.samples_ns);
}

bool is_on_device(const BenchResult& r) {
  return r.host_ns_per_token > 0;
}
std::string backend(const BenchResult& r) {
  return is_on_device(r) ? "Vulkan" : "CPU";
}

int64_t n_gpu_layers(const BenchResult& r) {
  return r.load.gpu_layers == all_layers ? -1 : static_cast<int64_t>(r.load.gpu_layers);
}

/// llama-bench's fields but the samples, in its order.
ordered_json llama_fields(const BenchResult& r) {
  const std::vector<double> rates = tokens_per_second(r);
  return {{"build_commit", VGA_COMMIT},
          {"build_number", VGA_BUILD_NUMBER},
          {"cpu_info", cpu_name()},
          {"gpu_info", is_on_device(r) ? r.runs_on : ""},
          {"backends", backend(r)},
          {"model_filename", r.load.file},
          {"model_type", r.model_type},
          {"model_size", r.model_bytes},
          {"model_n_params", r.parameters},
          {"n_batch", r.setup.n_batch},
          {"n_ubatch", r.setup.n_ubatch},
          {"n_threads", r.setup.n_threads},
          {"cpu_mask", "0x0"},
          {"cpu_strict", false},
          {"poll", 50},
          {"type_k", name(r.setup.cache_type)},
          {"type_v", name(r.setup.cache_type)},
          {"n_gpu_layers", n_gpu_layers(r)},
          {"n_cpu_moe", 0},
          {"split_mode", "layer"},
          {"main_gpu", 0},
          {"no_kv_offload", false},
          {"flash_attn", r.setup.flash_attention},
          {"devices", r.load.device},
          {"tensor_split", "0.00"},
          {"tensor_buft_overrides", "none"},
          {"load_mode", r.load.mode},
          {"embeddings", false},
          {"no_op_offload", 0},
          {"no_host", false},
          {"fit_target", 0},
          {"fit_min_ctx", 0},
          {"n_prompt", r.test.n_prompt},
          {"n_gen", r.test.n_gen},
          {"n_depth", r.test.n_depth},
          {"test_time", r.test_time},
          {"avg_ns", std::llround(mean(r.samples_ns))},
          {"stddev_ns", std::llround(standard_deviation(r.samples_ns))},
          {"avg_ts", mean(rates)},
          {"stddev_ts", standard_deviation(rates)}};
}

/// These, and ours behind them.
ordered_json fields(const BenchResult& r) {
  ordered_json row = llama_fields(r);
  row["runs_on"] = r.runs_on;
  row["n_sequences"] = r.test.n_sequences;
  row["window"] = r.setup.window;
  row["keep"] = r.setup.keep;
  row["gb_per_s"] = nullptr;
  row["bandwidth_gb_per_s"] = r.memory_bandwidth / 1e9;
  row["bandwidth_share"] = nullptr;
  if (r.bytes_read > 0) {
    row["gb_per_s"] = bytes_per_second(r) / 1e9;
    row["bandwidth_share"] = bytes_per_second(r) / r.memory_bandwidth;
  }
  row["host_ns_per_token"] = nullptr;
  if (is_on_device(r)) row["host_ns_per_token"] = std::llround(r.host_ns_per_token);
  return row;
}

/// A value between quotes, which are doubled in it.
std::string quoted(const ordered_json& value, char quote) {
  std::string text;
  if (value.is_string()) {
    text = value.get<std::string>();
  } else if (value.is_boolean()) {
    text = value.get<bool>() ? "1" : "0";
  } else if (!value.is_null()) {
    text = value.dump();
  }
  for (size_t i = 0; (i = text.find(quote, i)) != std::string::npos; i += 2) {
    text.insert(i, 1, quote);
  }
  return quote + text + quote;
}

const char* sql_type(const ordered_json& value) {
  return value.is_string() ? "TEXT" : value.is_number_float() ? "REAL" : "INTEGER";
}

/// What `text` makes of each field of `row`, one after the other.
template <class Text>
std::string list(const ordered_json& row, const char* separator, Text text) {
  std::string all;
  for (auto field = row.begin(); field != row.end(); ++field) {
    if (field != row.begin()) all += separator;
    all += text(field);
  }
  return all;
}

std::string human_size(uint64_t bytes) {
  const double mib = static_cast<double>(bytes) / (1 << 20);
  return mib < 1024 ? format("%.2f MiB", mib) : format("%.2f GiB", mib / 1024);
}

std::string human_count(uint64_t count) {
  const double millions = static_cast<double>(count) / 1e6;
  return millions < 1000 ? format("%.2f M", millions) : format("%.2f B", millions / 1000);
}

}  // namespace

std::string BenchTest::name() const {
  std::string text;
  if (n_prompt > 0) text = "pp" + std::to_string(n_prompt);
  if (n_gen > 0) text += (text.empty() ? "tg" : "+tg") + std::to_string(n_gen);
  if (n_sequences > 1) text += " x " + std::to_string(n_sequences);
  if (n_depth > 0) text += " @ d" + std::to_string(n_depth);
  return text;
}

BenchReport::BenchReport(const BenchFlags& flags, BenchFlags::Output output, std::ostream& out)
    : output_(output), out_(out) {
  using R = const BenchResult&;
  columns_ = {{"model", -30, [](R r) { return r.model_type; }},
              {"size", 10, [](R r) { return human_size(r.model_bytes); }},
              {"params", 10, [](R r) { return human_count(r.parameters); }},
              {"backend", -10, [](R r) { return backend(r); }},
              {"threads", 7, [](R r) { return std::to_string(r.setup.n_threads); }}};
  // As in llama-bench, what was left at its default takes no column.
  const BenchFlags defaults;
  if (flags.n_batch != defaults.n_batch) {
    columns_.push_back({"n_batch", 7, [](R r) { return std::to_string(r.setup.n_batch); }});
  }
  if (flags.n_ubatch != defaults.n_ubatch) {
    columns_.push_back({"n_ubatch", 8, [](R r) { return std::to_string(r.setup.n_ubatch); }});
  }
  if (flags.cache_types() != defaults.cache_types()) {
    for (const char* title : {"type_k", "type_v"}) {
      columns_.push_back({title, 6, [](R r) { return std::string(name(r.setup.cache_type)); }});
    }
  }
  if (!flags.gpu_layers.empty()) {
    columns_.push_back({"ngl", 3, [](R r) { return std::to_string(n_gpu_layers(r)); }});
  }
  if (flags.load_modes != defaults.load_modes) {
    columns_.push_back({"load_mode", -10, [](R r) { return r.load.mode; }});
  }
  if (flags.windows != defaults.windows) {
    columns_.push_back({"window", 6, [](R r) { return std::to_string(r.setup.window); }});
    columns_.push_back({"keep", 4, [](R r) { return std::to_string(r.setup.keep); }});
  }
  columns_.push_back({"test", 15, [](R r) { return r.test.name(); }});
  columns_.push_back({"t/s", 20, [](R r) {
                        const auto rates = tokens_per_second(r);
                        return format("%.2f ± %.2f", mean(rates), standard_deviation(rates));
                      }});
  columns_.push_back({"GB/s", 7, [](R r) {
                        return r.bytes_read == 0 ? "" : format("%.1f", bytes_per_second(r) / 1e9);
                      }});
  if (flags.on_device) {
    columns_.push_back({"host ms/token", 13, [](R r) {
                          return is_on_device(r) ? format("%.3f", r.host_ns_per_token / 1e6) : "";
                        }});
  }
  columns_.push_back({"of memory", 9, [](R r) {
                        return r.bytes_read == 0 ? ""
                                                 : format("%.0f %%", 100 * bytes_per_second(r) /
                                                                         r.memory_bandwidth);
                      }});
}

void BenchReport::print_row(const std::function<std::string(const Column&)>& text) const {
  for (const Column& column : columns_) {
    const std::string cell = text(column);
    const auto is_first_byte = [](char c) {
      return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    };
    const auto length = static_cast<size_t>(std::ranges::count_if(cell, is_first_byte));
    const auto width = static_cast<size_t>(std::abs(column.width));
    const std::string padding(width - std::min(width, length), ' ');
    out_ << "| " << (column.width < 0 ? cell : padding) << (column.width < 0 ? padding : cell)
         << ' ';
  }
  out_ << "|\n";
}

void BenchReport::add(const BenchResult& result) {
  const bool first = n_results_++ == 0;
  runs_on_ = result.runs_on;
  bandwidths_[result.setup.n_threads] = result.memory_bandwidth;
  const auto key = [](const auto& field) { return field.key(); };
  if (output_ == BenchFlags::Output::none) return;
  if (output_ == BenchFlags::Output::md) {
    if (first) {
      print_row([](const Column& c) { return c.title; });
      print_row([](const Column& c) {
        const std::string dashes(static_cast<size_t>(std::abs(c.width)) - 1, '-');
        return dashes + (c.width < 0 ? '-' : ':');
      });
    }
    print_row([&](const Column& c) { return c.text(result); });
  } else if (output_ == BenchFlags::Output::csv) {
    const ordered_json row = fields(result);
    if (first) out_ << list(row, ",", key) << '\n';
    out_ << list(row, ",", [](const auto& field) { return quoted(field.value(), '"'); }) << '\n';
  } else if (output_ == BenchFlags::Output::sql) {
    const ordered_json row = llama_fields(result);
    if (first) {
      const auto column = [](const auto& f) { return "  " + f.key() + " " + sql_type(f.value()); };
      out_ << "CREATE TABLE IF NOT EXISTS llama_bench (\n" << list(row, ",\n", column) << "\n);\n";
    }
    out_ << "INSERT INTO llama_bench (" << list(row, ", ", key) << ") VALUES ("
         << list(row, ", ", [](const auto& f) { return quoted(f.value(), '\''); }) << ");\n";
  } else {
    ordered_json row = fields(result);
    row["samples_ns"] = result.samples_ns;
    row["samples_ts"] = tokens_per_second(result);
    const bool lines = output_ == BenchFlags::Output::jsonl;
    if (!lines) out_ << (first ? "[\n" : ",\n");
    out_ << row.dump(lines ? -1 : 2, ' ', false, ordered_json::error_handler_t::replace);
    if (lines) out_ << '\n';
  }
  out_ << std::flush;
}

void BenchReport::finish() {
  if (output_ == BenchFlags::Output::json) {
    out_ << (n_results_ == 0 ? "[]\n" : "\n]\n");
  } else if (output_ == BenchFlags::Output::md && n_results_ > 0) {
    out_ << "\nbuild: " << VGA_COMMIT << ", " << runs_on_.substr(0, runs_on_.find(',')) << ", "
         << cpu_name() << "; memory reads";
    for (const auto& [n_threads, bandwidth] : bandwidths_) {
      out_ << (n_threads == bandwidths_.begin()->first ? " " : ", ")
           << format("%.1f GB/s with %zu thread%s", bandwidth / 1e9, n_threads,
                     n_threads == 1 ? "" : "s");
    }
    out_ << '\n';
  }
  out_ << std::flush;
  if (!out_) throw Error("output", "cannot write");
}

}  // namespace vga
