#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace vga {

/// A whole file as read-only bytes: mapped, or read into memory. Move-only; views of `bytes()` stay
/// valid when the MappedFile moves. Only regular files are accepted: a directory, FIFO or device
/// is an Error that says so. If another program truncates a mapped file while it is in use,
/// touching the lost part raises SIGBUS; `Access::read` is the way around.
class MappedFile {
 public:
  enum class Access { map, read };

  explicit MappedFile(const std::filesystem::path& path, Access access = Access::map);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }
  /// Takes a part of bytes() out of memory. A mapped file is read again where it is touched again;
  /// of one that was read in, only what nobody will touch may be released.
  void release(std::span<const std::byte> part) const;
  /// The path as given, for messages.
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::span<const std::byte> bytes_;
  std::unique_ptr<std::byte[]> memory_;  // holds the bytes when the file was read, not mapped
};

/// A file that appears under its final name whole or not at all: written under a temporary name in
/// the same directory, flushed to disk, then renamed by commit(). Destroyed without commit(), it
/// leaves nothing behind. Failures, a full disk among them, are Errors naming the final path, and
/// so is a path to what is no file. A file that was there gives the new one its permissions; where
/// the path is a link, the file that it names is written, be it there yet or not, and the link
/// stays.
class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& path);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Bytes written so far.
  uint64_t size() const { return size_; }
  void commit();

 private:
  void flush();

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
  std::unique_ptr<std::byte[]> buffer_;
  size_t buffered_ = 0;
};

/// An Error if writing to `path` would replace one of `inputs`, or what is no regular file.
void check_output(const std::filesystem::path& path, std::span<const std::string> inputs);

/// An Error if `bytes` are what `git clone` leaves in place of a large file without Git LFS.
void refuse_lfs_pointer(std::span<const std::byte> bytes, const std::string& file);

/// The whole file (a pipe or device too) as text, at most `limit` bytes.
std::string read_text(const std::filesystem::path& path, uint64_t limit = 1ull << 32);
/// The same of what stdin has left, which may be a socket: no path opens one.
std::string read_stdin(uint64_t limit = 1ull << 32);

}  // namespace vga
