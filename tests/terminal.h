#pragma once

#include <cerrno>
#include <chrono>
#include <string>
#include <string_view>

#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

namespace vga::test {

/// A program of ours on a terminal, and who sits there.
class Terminal {
 public:
  /// `command` is for the shell and begins with the program's name, `environment` is like
  /// "TERM=vt100".
  explicit Terminal(const std::string& command, const std::string& environment) {
    const std::string line = "exec env " + environment + " " VGA_BIN_DIR "/" + command;
    child_ = ::forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (child_ != 0) return;
    ::execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
    ::_exit(127);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    ::close(terminal_);  // hangs up
    if (child_ > 0) end();
  }

  /// Keys are typed once the program reads them one by one: until then the terminal's own line
  /// discipline would take a Ctrl-C, and with it what was typed before.
  void type(std::string_view keys) const {
    termios mode{};
    for (int i = 0; i < 3000 && ::tcgetattr(terminal_, &mode) == 0; ++i) {
      if ((mode.c_lflag & ICANON) == 0) break;
      ::usleep(10'000);
    }
    [[maybe_unused]] const ssize_t n = ::write(terminal_, keys.data(), keys.size());
  }

  /// Whether `text` comes, behind what was seen before, within half a minute.
  bool sees(std::string_view text) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (true) {
      if (const size_t at = output_.find(text, seen_); at != std::string::npos) {
        seen_ = at + text.size();
        return true;
      }
      if (std::chrono::steady_clock::now() > end || !read()) return false;
    }
  }

  /// Waits for the program to end; its status, or 128 + signal.
  int end() {
    while (read()) {
    }
    int status = 0;
    ::waitpid(child_, &status, 0);
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  /// All that came so far, stdout and stderr.
  const std::string& output() const { return output_; }

 private:
  /// Some more; false if there is none for 30 seconds, or at the end.
  bool read() {
    pollfd input{terminal_, POLLIN, 0};
    if (::poll(&input, 1, 30'000) != 1) return false;
    char chunk[4096];
    const ssize_t n = ::read(terminal_, chunk, sizeof chunk);
    if (n > 0) output_.append(chunk, static_cast<size_t>(n));
    return n > 0 || (n < 0 && errno == EINTR);
  }

  int terminal_ = -1;
  pid_t child_ = -1;
  std::string output_;
  size_t seen_ = 0;
};

}  // namespace vga::test
