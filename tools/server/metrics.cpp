#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

namespace vga {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;

const Buckets long_times = {0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500};
const Buckets short_times = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5};
const Buckets row_counts = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};

}  // namespace

struct Metrics::Impl {
  Counter& counter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
  }
  Gauge& gauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
  }
  Histogram& histogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
  }

  prometheus::Registry registry;
  Counter& prompt_tokens =
      counter("vga_prompt_tokens_total", "Tokens of prompts, those in the cache included");
  Counter& cached_tokens =
      counter("vga_cached_tokens_total", "Tokens of prompts that a sequence had read already");
  Counter& generation_tokens = counter("vga_generation_tokens_total", "Tokens generated");
  Counter& evicted_tokens =
      counter("vga_evicted_tokens_total", "Tokens that left a window before their answer ended");
  Counter& steps = counter("vga_steps_total", "Batches computed");
  prometheus::Family<Counter>& requests = prometheus::BuildCounter()
                                              .Name("vga_requests_total")
                                              .Help("Answers to HTTP requests")
                                              .Register(registry);
  Gauge& running = gauge("vga_requests_running", "Answers being generated");
  Gauge& waiting = gauge("vga_requests_waiting", "Answers waiting for a sequence");
  Gauge& sequences = gauge("vga_sequences", "Answers that can be generated at once");
  Histogram& to_first_token =
      histogram("vga_time_to_first_token_seconds", "From the request on", long_times);
  Histogram& between_tokens =
      histogram("vga_inter_token_seconds", "Between two tokens of an answer", short_times);
  Histogram& queue_time =
      histogram("vga_queue_time_seconds", "From the request to a sequence", long_times);
  Histogram& request_time =
      histogram("vga_request_seconds", "From the request to the end of its answer", long_times);
  Histogram& step_rows = histogram("vga_step_rows", "Rows of a batch", row_counts);
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

void Metrics::step(size_t rows) {
  impl_->steps.Increment();
  impl_->step_rows.Observe(static_cast<double>(rows));
}

void Metrics::first_token(double seconds) {
  impl_->to_first_token.Observe(seconds);
}

void Metrics::next_token(double seconds) {
  impl_->between_tokens.Observe(seconds);
}

void Metrics::answer(const AnswerReport& report) {
  impl_->prompt_tokens.Increment(static_cast<double>(report.prompt_tokens));
  impl_->cached_tokens.Increment(static_cast<double>(report.cached_tokens));
  impl_->generation_tokens.Increment(static_cast<double>(report.tokens));
  evicted(report.evicted_tokens);
  const double seconds = report.queue_seconds + report.prefill_seconds + report.decode_seconds;
  impl_->queue_time.Observe(report.queue_seconds);
  impl_->request_time.Observe(seconds);
  mean_seconds_ = 0.9 * mean_seconds_ + 0.1 * seconds;
}

void Metrics::evicted(size_t tokens) {
  impl_->evicted_tokens.Increment(static_cast<double>(tokens));
}

void Metrics::response(unsigned status) {
  impl_->requests.Add({{"status", std::to_string(status)}}).Increment();
}

std::string Metrics::text(const Scheduler::State& state) const {
  impl_->running.Set(static_cast<double>(state.running));
  impl_->waiting.Set(static_cast<double>(state.waiting));
  impl_->sequences.Set(static_cast<double>(state.sequences.size()));
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace vga
