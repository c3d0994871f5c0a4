#include "bench/bench_flags.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "cpu/threads.h"
#include "vga/error.h"
#include "vga/vga.h"

namespace vga {
namespace {

constexpr size_t max_numbers = 1000;

struct LlamaFlag {
  std::string_view name;
  char long_name[24];  // not const: it takes its place in argv
  bool ignored = false;
};
/// llama-bench's flags that are spelled in a way that CLI11 does not know, or mean nothing here.
LlamaFlag llama_flags[] = {
    {"-pg", "--pg"},
    {"-npl", "--n-parallel"},
    {"-ub", "--ubatch-size"},
    {"-ctk", "--cache-type-k"},
    {"-ctv", "--cache-type-v"},
    {"-fa", "--flash-attn"},
    {"-ngl", "--n-gpu-layers"},
    {"-dev", "--device"},
    {"-oe", "--output-err"},
    {"-mmp", "--mmap"},
    {"-lm", "--load-mode"},
    {"-C", "--cpu-mask", true},
    {"", "--cpu-strict", true},
    {"", "--poll", true},
    {"", "--prio", true},
    {"", "--numa", true},
    {"-dio", "--direct-io", true},
    {"-sm", "--split-mode", true},
    {"-mg", "--main-gpu", true},
    {"-ts", "--tensor-split", true},
    {"-ot", "--override-tensor", true},
    {"-nkvo", "--no-kv-offload", true},
    {"-nopo", "--no-op-offload", true},
    {"", "--no-host", true},
    {"-ncmoe", "--n-cpu-moe", true},
    {"-embd", "--embeddings", true},
    {"-fitt", "--fit-target", true},
    {"-fitc", "--fit-ctx", true},
};

/// Takes a number off the front of `text`; false if there is none in range.
bool take_number(std::string_view& text, size_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return error == std::errc() && number <= max_context;
}

bool take(std::string_view& text, char c) {
  if (!text.starts_with(c)) return false;
  text.remove_prefix(1);
  return true;
}

/// Takes FIRST, FIRST-LAST, FIRST-LAST+STEP or FIRST-LAST*FACTOR off the front of `text` and
/// appends its numbers; false if there is no such thing or no end to it.
bool take_range(std::string_view& text, std::vector<size_t>& numbers) {
  size_t first = 0;
  if (!take_number(text, first)) return false;
  size_t last = first;
  size_t step = 1;
  size_t factor = 1;
  if (take(text, '-')) {
    if (!take_number(text, last) || last < first) return false;
    if (take(text, '*')) {
      step = 0;
      if (!take_number(text, factor) || factor < 2 || first == 0) return false;
    } else if (take(text, '+')) {
      if (!take_number(text, step) || step == 0) return false;
    }
  }
  for (size_t number = first; number <= last; number = number * factor + step) {
    if (numbers.size() == max_numbers) return false;
    numbers.push_back(number);
  }
  return true;
}

/// The parts of `text` between commas.
std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> parts;
  for (;;) {
    const size_t comma = text.find(',');
    parts.emplace_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    text.remove_prefix(comma + 1);
  }
}

std::vector<DType> read_types(std::string_view flag, std::string_view text) {
  std::vector<DType> types;
  for (const std::string& part : split(text)) {
    const auto type = dtype_from_name(part);
    if (!type) throw Error(flag, "wanted a type such as f16, f32 or q8_0, found '" + part + "'");
    types.push_back(*type);
  }
  return types;
}

/// What `words` say for each part of `text`.
template <class T>
std::vector<T> read_words(std::string_view flag, std::string_view text,
                          const std::vector<std::pair<std::string, T>>& words) {
  std::vector<T> values;
  for (const std::string& part : split(text)) {
    const auto word = std::ranges::find(words, part, &std::pair<std::string, T>::first);
    if (word == words.end()) {
      std::vector<std::string> names;
      for (const auto& [name, value] : words) names.push_back(name);
      throw Error(flag,
                  "wanted one of " + CLI::detail::join(names, ", ") + ", found '" + part + "'");
    }
    values.push_back(word->second);
  }
  return values;
}

/// Adds a flag that may be given several times; `read` makes a list of each text.
template <class T, class Read>
CLI::Option* add_list(CLI::App& app, const std::string& names, const std::string& help,
                      std::vector<T>& out, Read read) {
  const auto read_all = [&out, read](const std::vector<std::string>& texts) {
    out.clear();
    for (const std::string& text : texts) {
      const std::vector<T> values = read(text);
      out.insert(out.end(), values.begin(), values.end());
    }
  };
  return app.add_option_function<std::vector<std::string>>(names, read_all, help)
      ->allow_extra_args(false);
}

void add_numbers(CLI::App& app, const std::string& flag, const std::string& names,
                 const std::string& help, std::vector<size_t>& out) {
  add_list(app, names, help, out,
           [flag](const std::string& text) { return read_numbers(flag, text); })
      ->type_name("N,...")
      ->default_str(std::to_string(out.front()));
}

}  // namespace

std::vector<size_t> read_numbers(std::string_view flag, std::string_view text) {
  std::vector<size_t> numbers;
  std::string_view rest = text;
  do {
    if (!take_range(rest, numbers)) break;
    if (rest.empty()) return numbers;
  } while (take(rest, ','));
  throw Error(flag, "wanted numbers such as 512 or 1,2 or 0-4096+1024 or 16-512*2, at most " +
                        std::to_string(max_numbers) + ", found '" + std::string(text) + "'");
}

BenchFlags::BenchFlags()
    : n_ubatch{SessionOptions{}.max_batch}, n_threads{cpu::default_threads()} {}

void BenchFlags::add_to(CLI::App& app) {
  add_list(app, "-m,--model", "GGUF files", models, split)->required()->type_name("FILE,...");
  add_numbers(app, "-p", "-p,--n-prompt", "Prefill this many tokens; 0: no such test", n_prompt);
  add_numbers(app, "-n", "-n,--n-gen", "Decode this many tokens one by one; 0: no such test",
              n_gen);
  add_list(app, "--pg", "-pg: prefill P tokens, then decode G, timed as one", n_both,
           [](const std::string& text) {
             const std::vector<size_t> pair = read_numbers("-pg", text);
             if (pair.size() != 2) {
               throw Error("-pg", "wanted two numbers such as 512,128, found '" + text + "'");
             }
             return std::vector{std::pair(pair[0], pair[1])};
           })
      ->type_name("P,G");
  add_numbers(app, "-d", "-d,--n-depth", "Tokens in the cache before each test begins", n_depth);
  add_numbers(app, "-npl", "--n-parallel",
              "-npl: sequences that are prefilled, and decode together", n_sequences);
  add_numbers(app, "-b", "-b,--batch-size", "Tokens of a prefill handed over at once", n_batch);
  add_numbers(app, "-ub", "--ubatch-size",
              "-ub: of those, tokens computed at once (llama-bench's default is 512)", n_ubatch);
  add_numbers(app, "-t", "-t,--threads", "CPU threads", n_threads);
  add_list(app, "--cache-type-k", "-ctk: type of the KV cache, keys (and values, without -ctv)",
           key_types, [](const std::string& text) { return read_types("-ctk", text); })
      ->type_name("TYPE,...")
      ->default_str("f16");
  add_list(app, "--cache-type-v", "-ctv: type of the values; the same as that of the keys",
           value_types, [](const std::string& text) { return read_types("-ctv", text); })
      ->type_name("TYPE,...");
  add_numbers(app, "--window", "--window",
              "Let a window of W tokens slide over what was read; 0: no window", windows);
  app.add_option("--keep", keep, "With a window: of its tokens the first N stay for good")
      ->check(CLI::Range(int64_t{0}, int64_t{max_context}))
      ->needs("--window")
      ->type_name("N")
      ->capture_default_str();
  app.add_option("-r,--repetitions", repetitions, "Times each test is repeated, 1 to 1000")
      ->check(CLI::Range(1, 1000))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--delay", delay, "Seconds to wait before each test, for a machine to cool down")
      ->check(CLI::Range(0, 86400))
      ->type_name("N")
      ->capture_default_str();
  const std::map<std::string, Output> formats = {{"none", Output::none},   {"md", Output::md},
                                                 {"csv", Output::csv},     {"json", Output::json},
                                                 {"jsonl", Output::jsonl}, {"sql", Output::sql}};
  const auto add_format = [&](const std::string& names, const std::string& help, Output& out) {
    app.add_option_function<std::string>(
           names, [formats, &out](const std::string& text) { out = formats.at(text); }, help)
        ->check(CLI::IsMember(formats))
        ->type_name("FORMAT");
  };
  add_format("-o,--output", "What to print: md (a table, default), csv, json, jsonl, sql or none",
             output);
  add_format("--output-err", "-oe: the same on stderr (default: none)", output_to_stderr);
  app.add_flag_callback(
      "--no-warmup", [this] { warmup = false; }, "Time the first run as well");
  add_list(app, "--load-mode",
           "-lm: mmap maps the file, none reads it into memory, auto (default) is mmap", load_modes,
           [](const std::string& text) {
             return read_words<std::string>("-lm", text,
                                            {{"auto", "auto"}, {"mmap", "mmap"}, {"none", "none"}});
           })
      ->type_name("MODE,...");
  add_list(app, "--mmap", "-mmp: 1 is -lm mmap, 0 is -lm none", load_modes,
           [](const std::string& text) {
             return read_words<std::string>("-mmp", text, {{"0", "none"}, {"1", "mmap"}});
           })
      ->type_name("0|1,...");
  app.add_flag_callback(
      "--no-mmap", [this] { load_modes = {"none"}; }, "-lm none");
  app.add_flag("--progress", progress, "Say on stderr what runs, even without a terminal");
  add_list(app, "--n-gpu-layers", "-ngl: --gpu-layers, as a list; -1: all", gpu_layers,
           [](const std::string& text) {
             std::vector<size_t> numbers;
             for (const std::string& part : split(text)) {
               const auto some =
                   part == "-1" ? std::vector{all_layers} : read_numbers("-ngl", part);
               numbers.insert(numbers.end(), some.begin(), some.end());
             }
             return numbers;
           })
      ->excludes("--gpu-layers")
      ->type_name("N,...")
      ->group("Device");
  add_list(app, "--flash-attn", "-fa", flash_attention, [](const std::string& text) {
    return read_words<int>("-fa", text,
                           {{"1", 1},
                            {"on", 1},
                            {"true", 1},
                            {"enabled", 1},
                            {"0", 0},
                            {"off", 0},
                            {"false", 0},
                            {"disabled", 0},
                            {"auto", -1},
                            {"-1", -1}});
  })->group("");  // hidden: there is nothing to choose
  for (const LlamaFlag& flag : llama_flags) {
    if (!flag.ignored) continue;
    const std::string name = flag.long_name;
    app.add_option_function<std::vector<std::string>>(
           flag.name.size() == 2 ? std::string(flag.name) + "," + name : name,
           [this, name](const std::vector<std::string>&) { ignored.push_back(name); })
        ->allow_extra_args(false)
        ->group("");
  }
  app.add_flag_callback("-v,--verbose", [this] { ignored.emplace_back("--verbose"); })->group("");
}

std::vector<std::string> BenchFlags::notes() const {
  std::vector<std::string> lines;
  if (!ignored.empty()) {
    lines.push_back(CLI::detail::join(ignored, ", ") + ": without a meaning here");
  }
  if (std::ranges::count(flash_attention, 0) > 0) {
    lines.emplace_back("-fa: attention is always one pass over the cache, as with -fa 1");
  }
  if (!on_device && std::ranges::any_of(gpu_layers, [](size_t n) { return n > 0; })) {
    lines.emplace_back("-ngl: there is no device, --device chooses one");
  }
  return lines;
}

std::vector<DType> BenchFlags::cache_types() const {
  if (key_types.empty() && value_types.empty()) return {SessionOptions{}.cache_type};
  if (value_types.empty() || key_types == value_types) return key_types;
  if (key_types.empty()) return value_types;
  throw Error("-ctv", "keys and values of a cache have one type: wanted the same list as -ctk");
}

void spell_out_flags(char** argv) {
  for (char** argument = argv; *argument != nullptr; ++argument) {
    const std::string_view text = *argument;
    if (text.starts_with("--"))
      std::replace(*argument, *argument + std::min(text.find('='), text.size()), '_', '-');
    for (LlamaFlag& flag : llama_flags) {
      if (flag.name == text) *argument = flag.long_name;
    }
  }
}

}  // namespace vga
