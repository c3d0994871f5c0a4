#include "base/memory.h"

#include <algorithm>
#include <fstream>
#include <string>

#include <sys/resource.h>

#include "base/cgroup.h"
#include "base/text.h"
#include "vga/error.h"

namespace vga {
namespace {

/// The bytes that a file of lines like "SwapTotal:   1024 kB" has for `name`; `otherwise` if none.
uint64_t bytes_in(const char* path, std::string_view name, uint64_t otherwise) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name)) return 1024 * std::stoull(line.substr(name.size()));
  }
  return otherwise;
}

uint64_t difference(uint64_t limit, uint64_t taken) {
  return limit - std::min(limit, taken);
}

}  // namespace

uint64_t memory_left() {
  uint64_t limit = std::min(bytes_in("/proc/meminfo", "MemTotal:", UINT64_MAX), cgroup_memory());
  const uint64_t swap = bytes_in("/proc/meminfo", "SwapTotal:", 0);
  limit = limit > UINT64_MAX - swap ? UINT64_MAX : limit + swap;
  uint64_t left = limit;
  if (limit < UINT64_MAX) left = difference(limit, bytes_in("/proc/self/status", "RssAnon:", 0));
  rlimit addresses{};
  if (::getrlimit(RLIMIT_AS, &addresses) == 0 && addresses.rlim_cur != RLIM_INFINITY) {
    left =
        std::min(left, difference(addresses.rlim_cur, bytes_in("/proc/self/status", "VmSize:", 0)));
  }
  return left;
}

void check_memory(uint64_t bytes, std::string_view what, std::string_view less) {
  const uint64_t left = memory_left();
  if (bytes <= left) return;
  throw Error("out of memory", std::string(what) + " takes " + human_bytes(bytes) +
                                   ", this process can have " + human_bytes(left) + " more; " +
                                   std::string(less));
}

}  // namespace vga
