/// What a file that we write does to what was there, and to the process that writes it.

#include <chrono>
#include <cstring>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "gguf_image.h"
#include "vga/error.h"

namespace {
int umask_calls = 0;
}

// In the place of the C library's: the mask is the whole process's, so nobody may touch it.
extern "C" mode_t umask(mode_t mask) noexcept {
  ++umask_calls;
  return static_cast<mode_t>(::syscall(SYS_umask, mask));
}

namespace vga::test {
namespace {

namespace fs = std::filesystem;

void write_file(const fs::path& path, std::string_view text) {
  OutputFile out(path);
  out.write(text);
  out.commit();
}

fs::perms permissions(const fs::path& path) {
  return fs::status(path).permissions();
}

TEST(OutputFileTest, WritesWhereALinkPoints) {
  const TemporaryDirectory directory;
  const fs::path& path = directory.path();
  fs::create_directory(path / "folder");
  fs::create_symlink("folder/second", path / "first");  // relative to where the link is
  fs::create_symlink(path / "folder/file", path / "folder/second");
  for (const char* text : {"new", "newer"}) {
    write_file(path / "first", text);
    EXPECT_TRUE(fs::is_symlink(path / "first"));
    EXPECT_TRUE(fs::is_symlink(path / "folder/second"));
    EXPECT_FALSE(fs::is_symlink(path / "folder/file"));
    EXPECT_EQ(read_text(path / "folder/file"), text);
  }
  fs::create_symlink("a", path / "b");
  fs::create_symlink("b", path / "a");
  EXPECT_THROW(OutputFile out(path / "a"), Error);
  fs::create_symlink("nowhere/file", path / "lost");
  EXPECT_THROW(OutputFile out(path / "lost"), Error);
  EXPECT_TRUE(fs::is_symlink(path / "lost"));
}

TEST(OutputFileTest, PermissionsFollowTheMask) {
  using fs::perms;
  const TemporaryDirectory directory;
  const auto set_mask = [](mode_t mask) { return static_cast<mode_t>(::syscall(SYS_umask, mask)); };
  umask_calls = 0;
  const mode_t before = set_mask(027);
  write_file(directory.path() / "new", "x");
  set_mask(before);
  EXPECT_EQ(umask_calls, 0);
  EXPECT_EQ(permissions(directory.path() / "new"),
            perms::owner_read | perms::owner_write | perms::group_read);
  // A file that was there keeps its own, and nobody else reads it meanwhile.
  const auto old = directory.write("old", "y");
  fs::permissions(old, perms::owner_read);
  {
    OutputFile out(old);
    for (const auto& entry : fs::directory_iterator(directory.path())) {
      if (entry.path().filename() == "new") continue;
      EXPECT_EQ(permissions(entry.path()), perms::owner_read) << entry.path();
    }
    out.commit();
  }
  EXPECT_EQ(permissions(old), perms::owner_read);
}

// As a parent leaves it that talks to its child over sockets.
TEST(ReadStdin, MayBeASocketThatDoesNotWait) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  ASSERT_EQ(::fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
  const int old_stdin = ::dup(STDIN_FILENO);
  ASSERT_EQ(::dup2(ends[0], STDIN_FILENO), STDIN_FILENO);
  std::thread writer([&] {
    for (const char* text : {"Once upon", " a time"}) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_GT(::write(ends[1], text, std::strlen(text)), 0);
    }
    ::close(ends[1]);
  });
  std::string text;
  EXPECT_NO_THROW(text = read_stdin());
  writer.join();
  ::dup2(old_stdin, STDIN_FILENO);
  ::close(old_stdin);
  ::close(ends[0]);
  EXPECT_EQ(text, "Once upon a time");
}

}  // namespace
}  // namespace vga::test
