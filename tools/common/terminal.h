#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace vga {

bool is_terminal(int descriptor);

/// Whether `descriptor` is a terminal that obeys control sequences: TERM is set, and not to dumb.
bool can_redraw(int descriptor);

/// Whether to colour what goes to `descriptor`: such a terminal, and NO_COLOR is not set.
bool wants_colour(int descriptor);

/// A progress bar on stderr, one line that redraws itself at most ten times a second; silent where
/// stderr is no terminal that can do that. Erased when destroyed, so that what follows starts on a
/// clean line.
class Progress {
 public:
  Progress(std::string label, uint64_t total);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  /// `note` stands behind the bar: a running value, a name.
  void update(uint64_t done, std::string_view note = {});

 private:
  std::string label_;
  uint64_t total_;
  bool visible_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point next_draw_{};
};

/// From here on SIGINT, SIGTERM and SIGHUP only raise a flag, for loops that end cleanly; a second
/// one ends the process as usual.
void catch_interrupts();
/// Whether any came.
bool interrupted();
/// Whether SIGTERM or SIGHUP came, which ask the whole program to end: nothing clears that.
bool terminated();
/// Takes a SIGINT for dealt with.
void clear_interrupt();
/// What an interrupted program ends with: 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP, as
/// shells have it.
int interrupted_status();

}  // namespace vga
