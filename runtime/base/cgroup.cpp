#include "base/cgroup.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace vga {
namespace {

namespace fs = std::filesystem;

struct Folders {
  std::vector<fs::path> v1;  // of the controller asked for
  std::vector<fs::path> v2;
};

bool has_word(const std::string& list, std::string_view word) {
  std::istringstream words(list);
  for (std::string each; std::getline(words, each, ',');) {
    if (each == word) return true;
  }
  return false;
}

/// `path` below each of the mounts and all folders between them. A container may see the path of
/// its host, of which it has nothing but the mount itself: what is not there limits nothing.
void add(std::vector<fs::path>& folders, const std::vector<fs::path>& mounts, fs::path path) {
  path = path.relative_path();
  while (true) {
    for (const fs::path& mount : mounts) folders.push_back(mount / path);
    if (path.empty()) return;
    path = path.parent_path();
  }
}

/// The folders of the groups that this process is in, as /proc/self/cgroup has them: lines of a
/// number, controllers, and a path, where version 2 names no controllers.
Folders folders_of(const fs::path& root, const std::string& controller) {
  const fs::path mounts = root / "sys/fs/cgroup";
  Folders folders;
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      add(folders.v2, {mounts, mounts / "unified"}, path);
    } else if (has_word(controllers, controller)) {
      add(folders.v1, {mounts / controllers, mounts / controller}, path);
    }
  }
  return folders;
}

/// The number a file begins with; -1 if there is no file or it begins with a word.
int64_t number_in(const fs::path& path) {
  std::ifstream file(path);
  int64_t number = -1;
  return file >> number ? number : -1;
}

}  // namespace

size_t cgroup_cores(const fs::path& root) {
  size_t cores = SIZE_MAX;
  const auto limit = [&](int64_t quota, int64_t period) {
    if (quota <= 0 || period <= 0) return;
    cores = std::min(cores, std::max<size_t>(1, static_cast<size_t>(quota / period)));
  };
  const Folders folders = folders_of(root, "cpu");
  for (const fs::path& folder : folders.v2) {
    std::ifstream file(folder / "cpu.max");
    int64_t quota = 0;
    int64_t period = 0;
    if (file >> quota >> period) limit(quota, period);  // else no file, or "max"
  }
  for (const fs::path& folder : folders.v1) {
    limit(number_in(folder / "cpu.cfs_quota_us"), number_in(folder / "cpu.cfs_period_us"));
  }
  return cores;
}

uint64_t cgroup_memory(const fs::path& root) {
  uint64_t bytes = UINT64_MAX;
  const auto limit = [&](int64_t found) {
    if (found >= 0) bytes = std::min(bytes, static_cast<uint64_t>(found));
  };
  const Folders folders = folders_of(root, "memory");
  for (const fs::path& folder : folders.v2) limit(number_in(folder / "memory.max"));
  for (const fs::path& folder : folders.v1) limit(number_in(folder / "memory.limit_in_bytes"));
  return bytes;
}

}  // namespace vga
