#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

/// What a container allows: limits of control groups, of version 1 and 2, those of this process and
/// of all groups that contain it. Tests give another `root` than the machine's.
namespace vga {

/// Cores that CPU quotas amount to, at least 1; SIZE_MAX without a quota.
size_t cgroup_cores(const std::filesystem::path& root = "/");

/// Bytes of memory; UINT64_MAX without a limit.
uint64_t cgroup_memory(const std::filesystem::path& root = "/");

}  // namespace vga
