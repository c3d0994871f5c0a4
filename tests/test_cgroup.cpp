#include <gtest/gtest.h>

#include "base/cgroup.h"
#include "gguf_image.h"

namespace vga::test {
namespace {

/// A machine of which only control groups are there.
class Cgroup : public testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_.path() / path).parent_path());
    root_.write(path, text);
  }
  size_t cores() const { return cgroup_cores(root_.path()); }
  uint64_t memory() const { return cgroup_memory(root_.path()); }

  TemporaryDirectory root_;
};

TEST_F(Cgroup, NothingLimitsNothing) {
  EXPECT_EQ(cores(), SIZE_MAX);
  EXPECT_EQ(memory(), UINT64_MAX);
  write("proc/self/cgroup", "0::/\n1:cpu\n\nnonsense\n");
  EXPECT_EQ(cores(), SIZE_MAX);
  write("sys/fs/cgroup/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(cores(), SIZE_MAX);
  EXPECT_EQ(memory(), UINT64_MAX);
}

TEST_F(Cgroup, TheNarrowestOfNestedGroupsCounts) {
  write("proc/self/cgroup", "0::/user.slice/app.scope\n");
  write("sys/fs/cgroup/user.slice/app.scope/cpu.max", "600000 100000\n");
  write("sys/fs/cgroup/user.slice/app.scope/memory.max", "max\n");
  EXPECT_EQ(cores(), 6u);
  write("sys/fs/cgroup/user.slice/cpu.max", "350000 100000\n");
  write("sys/fs/cgroup/user.slice/memory.max", "1000000000\n");
  EXPECT_EQ(cores(), 3u);
  EXPECT_EQ(memory(), 1'000'000'000u);
  write("sys/fs/cgroup/cpu.max", "20000 100000\n");  // a fifth of a core
  EXPECT_EQ(cores(), 1u);
  write("sys/fs/cgroup/elsewhere/memory.max", "5\n");
  EXPECT_EQ(memory(), 1'000'000'000u);
}

// As a container sees it: its own group is mounted where the host has its root.
TEST_F(Cgroup, ThePathOfTheHostNeedNotBeThere) {
  write("proc/self/cgroup", "0::/docker/4711\n");
  write("sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_EQ(cores(), 2u);
}

TEST_F(Cgroup, VersionOne) {
  write("proc/self/cgroup",
        "12:memory:/docker/4711\n4:cpu,cpuacct:/docker/4711\n3:cpuset:/\n0::/docker/4711\n");
  const std::string cpu = "sys/fs/cgroup/cpu,cpuacct/docker/4711/";
  write(cpu + "cpu.cfs_quota_us", "-1\n");
  write(cpu + "cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(cores(), SIZE_MAX);
  EXPECT_EQ(memory(), 9223372036854771712u);
  write(cpu + "cpu.cfs_quota_us", "400000\n");
  write("sys/fs/cgroup/memory/docker/4711/memory.limit_in_bytes", "2000000000\n");
  EXPECT_EQ(cores(), 4u);
  EXPECT_EQ(memory(), 2'000'000'000u);
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "25000\n");
  EXPECT_EQ(cores(), 2u);
}

}  // namespace
}  // namespace vga::test
