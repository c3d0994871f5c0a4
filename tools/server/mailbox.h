#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

namespace vga {

/// Brings events from the scheduler's thread to a coroutine of the thread of the connections.
template <class Event>
class Mailbox : public std::enable_shared_from_this<Mailbox<Event>> {
 public:
  explicit Mailbox(const boost::asio::any_io_executor& executor) : timer_(executor) {}

  /// From any thread; never waits.
  void put(Event event);
  /// Events that nobody took yet.
  size_t waiting() const { return waiting_; }
  /// All there are, as soon as there is one; none after `limit`. For one coroutine.
  boost::asio::awaitable<std::vector<Event>> take(std::chrono::milliseconds limit);

 private:
  std::vector<Event> take_now();

  std::mutex mutex_;
  std::vector<Event> events_;  // under the mutex
  std::atomic<size_t> waiting_ = 0;
  boost::asio::steady_timer timer_;  // of the connections' thread
};

}  // namespace vga

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace vga {

template <class Event>
void Mailbox<Event>::put(Event event) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = events_.empty();
    events_.push_back(std::move(event));
    waiting_ = events_.size();
  }
  if (first) {
    boost::asio::post(timer_.get_executor(),
                      [self = this->shared_from_this()] { self->timer_.cancel(); });
  }
}

template <class Event>
std::vector<Event> Mailbox<Event>::take_now() {
  const std::lock_guard lock(mutex_);
  waiting_ = 0;
  return std::exchange(events_, {});
}

template <class Event>
boost::asio::awaitable<std::vector<Event>> Mailbox<Event>::take(std::chrono::milliseconds limit) {
  std::vector<Event> events = take_now();
  if (events.empty()) {
    // What comes meanwhile is posted to this thread, so it cancels this wait and no earlier one.
    timer_.expires_after(limit);
    co_await timer_.async_wait(boost::asio::as_tuple(boost::asio::use_awaitable));
    events = take_now();
  }
  co_return events;
}

}  // namespace vga
