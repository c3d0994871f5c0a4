/// vga-bench: how fast does a model run?

#include <chrono>
#include <ctime>
#include <functional>
#include <iostream>
#include <map>
#include <random>
#include <thread>

#include "base/text.h"
#include "bench/bench_flags.h"
#include "bench/bench_report.h"
#include "bench/memory_bandwidth.h"
#include "common/program.h"
#include "common/terminal.h"
#include "compute/device_choice.h"

namespace {

using Clock = std::chrono::steady_clock;

std::vector<vga::BenchTest> all_tests(const vga::BenchFlags& flags) {
  std::vector<vga::BenchTest> tests;
  for (const size_t depth : flags.n_depth) {
    for (const size_t n_sequences : flags.n_sequences) {
      for (const size_t n : flags.n_prompt) tests.push_back({n, 0, depth, n_sequences});
      for (const size_t n : flags.n_gen) tests.push_back({0, n, depth, n_sequences});
      for (const auto& [n_prompt, n_gen] : flags.n_both) {
        tests.push_back({n_prompt, n_gen, depth, n_sequences});
      }
    }
  }
  std::erase_if(tests, [](const vga::BenchTest& test) { return test.n_prompt + test.n_gen == 0; });
  return tests;
}

std::vector<vga::BenchLoad> all_loads(const vga::BenchFlags& flags,
                                      const vga::ModelOptions& options) {
  const std::string device = vga::wanted_device(options.device).name;
  const std::vector<size_t> gpu_layers =
      flags.gpu_layers.empty() ? std::vector{options.device_layers} : flags.gpu_layers;
  std::vector<vga::BenchLoad> loads;
  for (const std::string& file : flags.models) {
    for (const size_t n : gpu_layers) {
      for (const std::string& mode : flags.load_modes) loads.push_back({file, mode, device, n});
    }
  }
  return loads;
}

std::vector<vga::BenchSetup> all_setups(const vga::BenchFlags& flags) {
  const int flash_attention = flags.flash_attention.front() == -1 ? -1 : 1;
  std::vector<vga::BenchSetup> setups;
  for (const size_t n_batch : flags.n_batch) {
    for (const size_t n_ubatch : flags.n_ubatch) {
      for (const vga::DType cache_type : flags.cache_types()) {
        for (const size_t window : flags.windows) {
          for (const size_t n_threads : flags.n_threads) {
            const size_t keep = window > 0 ? flags.keep : 0;
            setups.push_back(
                {n_batch, n_ubatch, n_threads, cache_type, window, keep, flash_attention});
          }
        }
      }
    }
  }
  return setups;
}

/// What all tests find room in.
struct Room {
  size_t context;
  size_t n_sequences;
};

vga::SessionOptions session_options(const vga::BenchSetup& setup, const Room& room) {
  return {.context = setup.window > 0 ? 0 : room.context,
          .window = setup.window,
          .keep = setup.keep,
          .n_sequences = room.n_sequences,
          .n_threads = setup.n_threads,
          .max_batch = std::min(setup.n_batch, setup.n_ubatch),
          .cache_type = setup.cache_type};
}

/// The setup that takes the most memory, for a device must have room for it.
vga::BenchSetup largest(const std::vector<vga::BenchSetup>& setups, size_t context) {
  return std::ranges::max(setups, {}, [&](const vga::BenchSetup& setup) {
    const size_t positions = setup.window > 0 ? setup.window : context;
    return positions * vga::row_bytes(setup.cache_type, 32);
  });
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%FT%TZ", std::gmtime(&now));
  return text;
}

/// Runs tests on one session, the speed of which does not depend on what the tokens say.
class Runner {
 public:
  Runner(const vga::Model& model, vga::Session& session, size_t n_batch)
      : session_(session), n_batch_(n_batch), vocab_size_(model.config().vocab_size) {}

  /// Brings the test's sequences to its depth; false if interrupted.
  bool go_to_depth(const vga::BenchTest& test) {
    const auto wanted = static_cast<int64_t>(test.n_depth);
    at_depth_.resize(std::max(at_depth_.size(), test.n_sequences));
    for (uint32_t sequence = 0; sequence < test.n_sequences; ++sequence) {
      vga::Snapshot& at_depth = at_depth_[sequence];
      const int64_t length = session_.go_back(std::min(wanted, session_.length(sequence)),
                                              std::span(&at_depth, 1), sequence);
      if (length < wanted) {
        session_.prefill(random_tokens(static_cast<size_t>(wanted - length)), sequence, go_on);
        session_.wait();
      }
      if (vga::interrupted()) return false;
      at_depth = session_.snapshot(sequence);
    }
    return true;
  }

  /// Nanoseconds from the first token in to the likeliest one after the last; meaningless if
  /// interrupted.
  uint64_t run(const vga::BenchTest& test) {
    const std::vector<vga::Token> prompt = random_tokens(test.n_prompt);
    const std::vector<vga::Token> next = random_tokens(test.n_gen);
    const double waited = session_.device_wait_seconds();
    const auto start = Clock::now();
    for (uint32_t sequence = 0; test.n_prompt > 0 && sequence < test.n_sequences; ++sequence) {
      for (size_t i = 0; i < test.n_prompt && !vga::interrupted(); i += n_batch_) {
        const size_t n = std::min(n_batch_, test.n_prompt - i);
        session_.prefill(std::span(prompt).subspan(i, n), sequence, go_on);
      }
      session_.likeliest(1);
    }
    std::vector<vga::Row> rows;
    for (const vga::Token token : next) {
      if (vga::interrupted()) break;
      rows.clear();
      for (uint32_t sequence = 0; sequence < test.n_sequences; ++sequence) {
        rows.push_back({token, session_.length(sequence), sequence, true});
      }
      session_.append(rows);
      session_.likeliest(1);
    }
    const auto time = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start);
    host_ns_ = static_cast<double>(time.count()) - 1e9 * (session_.device_wait_seconds() - waited);
    return std::max<uint64_t>(1, static_cast<uint64_t>(time.count()));
  }

  /// Of the last run(), nanoseconds in which a device had nothing to do.
  double host_ns() const { return host_ns_; }
  bool waits_for_device() const { return session_.device_wait_seconds() > 0; }

 private:
  static bool go_on(size_t) { return !vga::interrupted(); }

  std::vector<vga::Token> random_tokens(size_t n) {
    std::uniform_int_distribution<vga::Token> any(0, static_cast<vga::Token>(vocab_size_ - 1));
    std::vector<vga::Token> tokens(n);
    for (vga::Token& token : tokens) token = any(random_);
    return tokens;
  }

  vga::Session& session_;
  std::vector<vga::Snapshot> at_depth_;  // (sequences) for models that cannot go back otherwise
  size_t n_batch_;
  size_t vocab_size_;
  std::mt19937 random_{1};
  double host_ns_ = 0;
};

/// Bytes that decoding `test.n_gen` tokens reads: for each of them the weights, once for all
/// sequences, and the keys and values of all tokens it sees, itself among them.
uint64_t bytes_read(const vga::Model& model, const vga::BenchTest& test,
                    const vga::BenchSetup& setup) {
  if (test.n_prompt > 0) return 0;
  const vga::Config& config = model.config();
  uint64_t positions = 0;  // of all layers
  uint64_t states = 0;     // bytes that delta nets read and write for a token
  for (const vga::LayerConfig& layer : config.layers) {
    if (layer.mixer == vga::Mixer::delta) {
      states += 2 * config.delta.value_size() * config.delta.head_dim * sizeof(float);
      continue;
    }
    for (size_t length = test.n_depth + 1; length <= test.n_depth + test.n_gen; ++length) {
      size_t seen = length;
      for (const size_t window : {setup.window, layer.window}) {
        if (window > 0) seen = std::min(seen, window);
      }
      positions += seen;
    }
  }
  const uint64_t per_position = 2 * vga::row_bytes(setup.cache_type, config.kv_size());
  return test.n_gen * model.bytes_per_token() +
         test.n_sequences * (test.n_gen * states + positions * per_position);
}

/// Nanoseconds of each repetition; cut short if interrupted.
std::vector<uint64_t> measure(Runner& runner, const vga::BenchTest& test,
                              const vga::BenchFlags& flags, double& host_ns_per_token) {
  vga::Progress progress(test.name(), flags.repetitions);
  progress.update(0, test.n_depth > 0 ? "filling the cache" : "warming up");
  std::vector<uint64_t> samples;
  double host_ns = 0;
  // What the first use alone pays for: pages of the file, scratch memory, sleeping cores.
  if (runner.go_to_depth(test) && flags.warmup) {
    vga::BenchTest first = test;
    first.n_gen = std::min<size_t>(test.n_gen, 1);
    runner.run(first);
  }
  while (samples.size() < flags.repetitions && runner.go_to_depth(test)) {
    progress.update(samples.size());
    samples.push_back(runner.run(test));
    host_ns += runner.host_ns();
  }
  const size_t n_tokens = samples.size() * test.timed_tokens();
  if (runner.waits_for_device() && n_tokens > 0) {
    host_ns_per_token = host_ns / static_cast<double>(n_tokens);
  }
  return samples;
}

/// Runs everything that `flags` ask for; false if interrupted.
bool bench(const vga::BenchFlags& flags, const vga::ModelOptions& options,
           const std::function<void(const vga::BenchResult&)>& report) {
  const std::vector<vga::BenchTest> tests = all_tests(flags);
  if (std::ranges::count(flags.n_threads, size_t{0}) > 0) {
    throw vga::Error("-t", "wanted at least 1 thread, found 0");
  }
  if (tests.empty()) throw vga::Error("-p, -n", "nothing to measure: all tests have 0 tokens");
  if (std::ranges::count(flags.n_sequences, size_t{0}) > 0) {
    throw vga::Error("-npl", "wanted at least 1 sequence, found 0");
  }
  const Room room = {std::ranges::max(tests, {}, &vga::BenchTest::length).length(),
                     std::ranges::max(flags.n_sequences)};
  std::map<size_t, double> bandwidths;  // by number of threads
  const std::vector<vga::BenchSetup> setups = all_setups(flags);
  for (const vga::BenchLoad& load : all_loads(flags, options)) {
    vga::ModelOptions model_options = options;
    model_options.mmap = load.mode != "none";
    model_options.device_layers = load.gpu_layers;
    model_options.session = session_options(largest(setups, room.context), room);
    const vga::Model model = vga::load_model(load.file, model_options);
    for (const vga::BenchSetup& setup : setups) {
      vga::Session session(model, session_options(setup, room));
      double& bandwidth = bandwidths[setup.n_threads];
      if (bandwidth == 0) bandwidth = vga::measure_memory_bandwidth(setup.n_threads);
      Runner runner(model, session, setup.n_batch);
      for (const vga::BenchTest& test : tests) {
        for (size_t i = 0; i < flags.delay && !vga::interrupted(); ++i) {
          std::this_thread::sleep_for(std::chrono::seconds(1));
        }
        if (flags.progress)
          std::cerr << "vga-bench: " << vga::printable(load.file) << ": " << test.name() << '\n';
        vga::BenchResult result{load,
                                model.description(),
                                model.weight_bytes(),
                                model.parameters(),
                                session.description(),
                                setup,
                                test,
                                now_utc(),
                                {},
                                bytes_read(model, test, setup),
                                bandwidth};
        result.samples_ns = measure(runner, test, flags, result.host_ns_per_token);
        if (vga::interrupted()) return false;
        report(result);
        vga::check_stdout();
      }
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Measure how fast a model runs, with llama-bench's flags and field names.\n\n"
      "  vga-bench -m stories.gguf\n"
      "  vga-bench -m a.gguf,b.gguf -p 0 -n 64 -d 0-4096+1024 -t 1,2\n"
      "  vga-bench -m stories.gguf -p 0 -d 100000 --window 256,1024 --keep 4\n"
      "  vga-bench -m stories.gguf -p 0 -n 32 -npl 1,2,4,8,16,32\n"
      "  vga-bench -m stories.gguf -p 512 -n 128 -o json | jq '.[] | {n_prompt, n_gen, avg_ts}'\n\n"
      "Every test of every combination is run once to warm up and then -r times. ppN is a prefill\n"
      "of N tokens, of which the last yields logits; tgN decodes N tokens one by one and finds\n"
      "the likeliest next one each time; '@ dN' is with N tokens in the cache already, the time\n"
      "of which does not count. 'x N' does it in N sequences, which decode together, one row "
      "each.\n"
      "t/s is the mean of the repetitions and their standard deviation.\n\n"
      "A decoded token must read all weights and the cache. GB/s is how many bytes of those were\n"
      "read per second, 'of memory' its share of what as many threads can read from memory, which\n"
      "is measured first. More than 100 % means that the model fits into the CPU's cache.\n\n"
      "With --device, 'host ms/token' is the time in which the device had nothing to do while the\n"
      "host recorded and submitted work or read logits back.\n\n"
      "Lists: commas, repeated flags, and ranges such as 0-4096+1024 or 16-512*2.\n\n"
      "Flags of llama-bench that change nothing here are taken, and a note on stderr names them.\n"
      "Defaults are the same but for -ub, and for --device, which is cpu.\n\n"
      "Scripts that read llama-bench's output read this one too. Behind its fields, csv, json and\n"
      "jsonl have more: runs_on, n_sequences, window, keep, gb_per_s, bandwidth_gb_per_s, "
      "bandwidth_share and\n"
      "host_ns_per_token. sql has its fields alone, so that both programs can fill one table; two\n"
      "windows look the same there. model_type counts the parameters, where llama-bench has a "
      "name\n"
      "for a number of layers: to join rows of both, give them one.",
      "vga-bench");
  vga::ModelOptions options;
  vga::add_device_to(app, options);
  vga::add_adapters_to(app, options.adapters);
  vga::BenchFlags flags;
  flags.add_to(app);
  vga::spell_out_flags(argv);
  return vga::run_program(app, argc, argv, [&] {
    if (options.device == "none") options.device = "cpu";  // llama-bench's word for it
    flags.on_device = vga::wanted_device(options.device).name != "cpu";
    for (const std::string& note : flags.notes()) std::cerr << "note: " << note << '\n';
    vga::BenchReport report(flags, flags.output, std::cout);
    vga::BenchReport also(flags, flags.output_to_stderr, std::cerr);
    vga::catch_interrupts();
    const bool done = bench(flags, options, [&](const vga::BenchResult& result) {
      report.add(result);
      also.add(result);
    });
    report.finish();
    also.finish();
    if (!done) std::cerr << "interrupted: these are the tests done so far\n";
    return done ? 0 : vga::interrupted_status();
  });
}
