#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "vga/scheduler.h"

namespace vga {

/// What Prometheus asks for. All functions may be called from any thread.
class Metrics {
 public:
  Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;
  ~Metrics();

  void step(size_t rows);
  void first_token(double seconds);
  void next_token(double seconds);
  void answer(const AnswerReport& report);
  void evicted(size_t tokens);
  void response(unsigned status);

  /// Seconds that an answer took of late, for Retry-After.
  double mean_seconds() const { return mean_seconds_; }
  /// The text format 0.0.4.
  std::string text(const Scheduler::State& state) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::atomic<double> mean_seconds_ = 1;
};

}  // namespace vga
