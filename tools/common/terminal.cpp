#include "common/terminal.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <unistd.h>

namespace vga {
namespace {

std::atomic<bool> interrupt_flag{false};
std::atomic<int> ended_by{0};  // the signal that asks the whole program to end
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free,
              "a signal handler may touch nothing else");

void on_signal(int signal) {
  const bool again =
      signal == SIGINT ? interrupt_flag.exchange(true) : ended_by.exchange(signal) != 0;
  if (again) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

bool is_terminal(int descriptor) {
  return ::isatty(descriptor) == 1;
}

bool can_redraw(int descriptor) {
  const char* term = std::getenv("TERM");
  return is_terminal(descriptor) && term != nullptr && std::string_view(term) != "dumb";
}

bool wants_colour(int descriptor) {
  const char* no_colour = std::getenv("NO_COLOR");
  return can_redraw(descriptor) && (no_colour == nullptr || *no_colour == '\0');
}

Progress::Progress(std::string label, uint64_t total)
    : label_(std::move(label)), total_(total), visible_(can_redraw(STDERR_FILENO)) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
}

void Progress::update(uint64_t done, std::string_view note) {
  const auto now = std::chrono::steady_clock::now();
  if (!visible_ || now < next_draw_) return;
  next_draw_ = now + std::chrono::milliseconds(100);
  drawn_ = true;
  constexpr size_t width = 30;
  const double share = total_ > 0 ? static_cast<double>(done) / static_cast<double>(total_) : 0;
  const auto full = std::min(width, static_cast<size_t>(share * width));
  std::string bar;
  for (size_t i = 0; i < width; ++i) bar += i < full ? "█" : "░";
  std::fprintf(stderr, "\r\x1b[K%s %s %3.0f %%  %.*s", label_.c_str(), bar.c_str(), 100 * share,
               static_cast<int>(note.size()), note.data());
  std::fflush(stderr);
}

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_signal;  // no SA_RESTART: a read that waits for a line must wake up
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  struct sigaction hangup {};
  ::sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) ::sigaction(SIGHUP, &action, nullptr);  // nohup means it
}

bool interrupted() {
  return interrupt_flag || terminated();
}
bool terminated() {
  return ended_by != 0;
}
void clear_interrupt() {
  interrupt_flag = false;
}
int interrupted_status() {
  return 128 + (terminated() ? ended_by.load() : SIGINT);
}

}  // namespace vga
