/// Full logits from llama.cpp, for scripts/compare-outputs, which compiles it against a llama.cpp
/// build. Token ids go in and out as text, logits as raw float32 (tokens, vocab). FLASH is on or
/// off: its flash attention.
///
///   llama-logits ids MODEL TEXT                          prints the ids of a text file
///   llama-logits logits MODEL THREADS FLASH OUT <ids     the logits of every token of one text
///   llama-logits greedy MODEL THREADS FLASH OUT N <ids   prints N ids that continue it, each the
///                                                        likeliest, and writes the logits that
///                                                        they come from

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "llama.h"

namespace {

[[noreturn]] void fail(const std::string& what) {
  std::cerr << what << '\n';
  std::exit(1);
}

void print_ids(const llama_vocab* vocab, const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (!in) fail(file + ": cannot read");
  std::vector<llama_token> ids(text.size() + 16);
  const auto length = static_cast<int32_t>(text.size());
  const int32_t n = llama_tokenize(vocab, text.data(), length, ids.data(),
                                   static_cast<int32_t>(ids.size()), true, false);
  if (n < 0) fail(file + ": cannot be tokenized");
  for (int32_t i = 0; i < n; ++i) std::printf("%d\n", ids[static_cast<size_t>(i)]);
}

class Run {
 public:
  Run(llama_model* model, size_t n_tokens, int n_threads, bool flash, const char* out)
      : n_vocab_(static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)))),
        out_(out, std::ios::binary) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = static_cast<uint32_t>(n_tokens);
    params.n_threads = params.n_threads_batch = n_threads;
    params.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    context_ = llama_init_from_model(model, params);
    if (context_ == nullptr) fail("no context");
  }

  /// Appends tokens; writes the logits of all of them or of the last one. The likeliest next token.
  llama_token add(const std::vector<llama_token>& tokens, bool all) {
    const auto n = static_cast<int32_t>(tokens.size());
    llama_batch batch = llama_batch_init(n, 0, 1);
    for (const llama_token token : tokens) {
      const int32_t i = batch.n_tokens++;
      batch.token[i] = token;
      batch.pos[i] = position_++;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = all || batch.n_tokens == n;
    }
    if (llama_decode(context_, batch) != 0) fail("cannot decode");
    llama_batch_free(batch);
    for (int32_t i = all ? 0 : n - 1; i < n; ++i) write(llama_get_logits_ith(context_, i));
    const float* last = llama_get_logits_ith(context_, n - 1);
    return static_cast<llama_token>(std::max_element(last, last + n_vocab_) - last);
  }

 private:
  void write(const float* logits) {
    const auto bytes = static_cast<std::streamsize>(n_vocab_ * sizeof(float));
    if (!out_.write(reinterpret_cast<const char*>(logits), bytes)) fail("cannot write");
  }

  size_t n_vocab_;
  std::ofstream out_;
  llama_context* context_;
  llama_pos position_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (argc != (command == "ids" ? 4 : command == "logits" ? 6 : 7)) fail("see its source");
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  ggml_backend_load_all();
  llama_model* model = llama_model_load_from_file(argv[2], llama_model_default_params());
  if (model == nullptr) fail(std::string(argv[2]) + ": llama.cpp cannot load it");
  if (command == "ids") {
    try {
      print_ids(llama_model_get_vocab(model), argv[3]);
    } catch (const std::exception& error) {  // a character that the vocabulary cannot express
      fail(std::string(argv[3]) + ": llama.cpp cannot tokenize it: " + error.what());
    }
    return 0;
  }
  const std::vector<llama_token> ids{std::istream_iterator<llama_token>(std::cin), {}};
  if (ids.empty()) fail("no ids");
  const size_t n = command == "greedy" ? std::stoul(argv[6]) : 0;
  Run run(model, ids.size() + n, std::stoi(argv[3]), argv[4] == std::string("on"), argv[5]);
  llama_token next = run.add(ids, command == "logits");
  for (size_t i = 0; i < n; ++i) {
    std::printf("%d\n", next);
    if (i + 1 < n) next = run.add({next}, false);
  }
  return 0;
}
