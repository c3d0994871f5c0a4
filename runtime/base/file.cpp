#include "base/file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vga/error.h"

namespace vga {
namespace {

constexpr size_t buffer_size = 1 << 20;

/// A file descriptor that closes itself.
struct Descriptor {
  int fd;
  explicit Descriptor(int opened) : fd(opened) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

[[noreturn]] void fail(const std::string& name, std::string_view doing) {
  throw Error(name, std::string(doing) + ": " + std::strerror(errno));
}

/// read(2) that retries when a signal interrupts it, and waits where the descriptor does not: a
/// parent may have set its end of a socket so.
size_t read_some(int fd, std::byte* to, size_t size, const std::string& name) {
  while (true) {
    const ssize_t n = ::read(fd, to, size);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno == EAGAIN) {
      pollfd input{fd, POLLIN, 0};
      ::poll(&input, 1, -1);
    } else if (errno != EINTR) {
      fail(name, "cannot read");
    }
  }
}

std::string read_all(int fd, uint64_t limit, const std::string& name) {
  std::string text;
  std::byte chunk[1 << 16];
  while (const size_t n = read_some(fd, chunk, sizeof chunk, name)) {
    if (text.size() + n > limit)
      throw Error(name, "longer than " + std::to_string(limit) + " bytes");
    text.append(reinterpret_cast<const char*>(chunk), n);
  }
  return text;
}

/// What `path` names in the end: the target of a link and of further ones, be it there or not.
std::filesystem::path target_of(std::filesystem::path path) {
  constexpr int most_links = 40;  // as the kernel has it
  std::error_code ignored;
  for (int i = 0; std::filesystem::is_symlink(path, ignored); ++i) {
    if (i == most_links) throw Error(path.string(), "is a link in a loop of links");
    path = path.parent_path() / std::filesystem::read_symlink(path);  // or absolute
  }
  return path;
}

/// Makes a file of a name that nothing has, `path` and a random end, for reading and writing. The
/// system takes the process's mask off `mode`.
int create_beside(const std::filesystem::path& path, mode_t mode, std::filesystem::path& name) {
  std::random_device random;
  int fd = -1;
  do {
    char end[16];
    std::snprintf(end, sizeof end, ".%08x", random());
    name = path.string() + end;
    fd = ::open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EEXIST);
  return fd;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path, Access access) : name_(path.string()) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) fail(name_, "cannot open");
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) fail(name_, "cannot stat");
  if (S_ISDIR(status.st_mode)) throw Error(name_, "is a directory, wanted a file");
  if (!S_ISREG(status.st_mode)) throw Error(name_, "is not a regular file");
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) return;
  if (access == Access::map) {
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (address == MAP_FAILED) fail(name_, "cannot map");
    bytes_ = {static_cast<const std::byte*>(address), size};
    return;
  }
  memory_ = std::make_unique_for_overwrite<std::byte[]>(size);
  for (size_t done = 0; done < size;) {
    const size_t n = read_some(file.fd, memory_.get() + done, size - done, name_);
    if (n == 0) throw Error(name_, "became shorter while it was read");
    done += n;
  }
  bytes_ = {memory_.get(), size};
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : name_(std::move(other.name_)),
      bytes_(std::exchange(other.bytes_, {})),
      memory_(std::move(other.memory_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(bytes_, other.bytes_);
  std::swap(memory_, other.memory_);
  return *this;
}

MappedFile::~MappedFile() {
  if (memory_ == nullptr && !bytes_.empty()) {
    ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
}

void MappedFile::release(std::span<const std::byte> part) const {
  // Whole pages alone: the first one that begins in the part, the last one that ends there.
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t skipped = (page - reinterpret_cast<uintptr_t>(part.data()) % page) % page;
  if (part.size() < skipped + page) return;
  auto* first = const_cast<std::byte*>(part.data()) + skipped;
  ::madvise(first, (part.size() - skipped) / page * page, MADV_DONTNEED);
}

OutputFile::OutputFile(const std::filesystem::path& path)
    : path_(path), buffer_(std::make_unique_for_overwrite<std::byte[]>(buffer_size)) {
  check_output(path, {});
  path_ = target_of(path);
  struct stat old = {};
  const bool replaces = ::stat(path_.c_str(), &old) == 0;
  descriptor_ = create_beside(path_, replaces ? 0600 : 0666, temporary_);
  if (descriptor_ < 0) fail(path_.string(), "cannot create a temporary file beside it");
  if (replaces) ::fchmod(descriptor_, old.st_mode & 07777);
}

OutputFile::~OutputFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void OutputFile::write(std::span<const std::byte> bytes) {
  size_ += bytes.size();
  while (!bytes.empty()) {
    const size_t n = std::min(bytes.size(), buffer_size - buffered_);
    std::memcpy(buffer_.get() + buffered_, bytes.data(), n);
    buffered_ += n;
    bytes = bytes.subspan(n);
    if (buffered_ == buffer_size) flush();
  }
}

void OutputFile::flush() {
  for (size_t done = 0; done < buffered_;) {
    const ssize_t n = ::write(descriptor_, buffer_.get() + done, buffered_ - done);
    if (n < 0 && errno != EINTR) fail(path_.string(), "cannot write");
    if (n > 0) done += static_cast<size_t>(n);
  }
  buffered_ = 0;
}

void OutputFile::commit() {
  flush();
  if (::fsync(descriptor_) != 0) fail(path_.string(), "cannot flush to disk");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_.string(), "cannot rename to");
  ::close(std::exchange(descriptor_, -1));
}

void check_output(const std::filesystem::path& path, std::span<const std::string> inputs) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return;
  if (!std::filesystem::is_regular_file(path, ignored)) {
    throw Error(path.string(), "exists and is not a regular file");
  }
  for (const std::string& input : inputs) {
    if (std::filesystem::equivalent(path, input, ignored)) {
      throw Error(path.string(), "is the input itself; write to another file");
    }
  }
}

void refuse_lfs_pointer(std::span<const std::byte> bytes, const std::string& file) {
  constexpr std::string_view start = "version https://git-lfs.github.com/spec/";
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!text.starts_with(start)) return;
  throw Error(file, "is a Git LFS pointer of " + std::to_string(bytes.size()) +
                        " bytes, not the file itself; `git lfs pull` in its repository fetches it");
}

std::string read_text(const std::filesystem::path& path, uint64_t limit) {
  const std::string name = path.string();
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.fd < 0) fail(name, "cannot open");
  return read_all(file.fd, limit, name);
}

std::string read_stdin(uint64_t limit) {
  return read_all(STDIN_FILENO, limit, "stdin");
}

}  // namespace vga
