#include "zip.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "vga/error.h"

namespace vga {
namespace {

static_assert(std::endian::native == std::endian::little, "ZIP fields are read in place");

// Record signatures and fixed sizes of APPNOTE.TXT 6.3, sections 4.3.7 to 4.3.16.
constexpr uint32_t local_signature = 0x04034b50;
constexpr uint64_t local_size = 30;
constexpr uint32_t central_signature = 0x02014b50;
constexpr uint64_t central_size = 46;
constexpr uint32_t end_signature = 0x06054b50;
constexpr uint64_t end_size = 22;
constexpr uint32_t end64_signature = 0x06064b50;
constexpr uint64_t end64_size = 56;
constexpr uint32_t locator64_signature = 0x07064b50;
constexpr uint64_t locator64_size = 20;
constexpr uint16_t zip64_extra = 1;
constexpr uint64_t max_comment = 65535;
constexpr uint64_t max_entries = 1 << 17;
constexpr uint32_t in_zip64 = 0xFFFFFFFF;  // the 64-bit field has the number

/// Numbers at offsets of a part of the file; whatever lies outside is an Error.
struct Record {
  std::span<const std::byte> bytes;
  std::string_view where;

  template <class T>
  T number(uint64_t offset) const {
    T value;
    std::memcpy(&value, part(offset, sizeof value).data(), sizeof value);
    return value;
  }
  uint16_t u16(uint64_t offset) const { return number<uint16_t>(offset); }
  uint32_t u32(uint64_t offset) const { return number<uint32_t>(offset); }
  uint64_t u64(uint64_t offset) const { return number<uint64_t>(offset); }

  std::span<const std::byte> part(uint64_t offset, uint64_t size) const {
    if (offset > bytes.size() || size > bytes.size() - offset) {
      throw Error(where, "damaged ZIP archive: wants " + std::to_string(size) +
                             " bytes at offset " + std::to_string(offset) + " of " +
                             std::to_string(bytes.size()));
    }
    return bytes.subspan(offset, size);
  }
  std::string_view text(uint64_t offset, uint64_t size) const {
    const auto found = part(offset, size);
    return {reinterpret_cast<const char*>(found.data()), found.size()};
  }
};

/// Where the central directory lies.
struct Directory {
  uint64_t offset;
  uint64_t size;
  uint64_t n_entries;
};

/// The end record is the last thing in the file but for its own comment.
uint64_t find_end(const Record& file) {
  const uint64_t size = file.bytes.size();
  if (size < end_size) throw Error(file.where, "too small for a ZIP archive");
  const uint64_t lowest = size - std::min(size, end_size + max_comment);
  for (uint64_t at = size - end_size;; --at) {
    if (file.u32(at) == end_signature && file.u16(at + 20) == size - at - end_size) return at;
    if (at == lowest) break;
  }
  throw Error(file.where, "ZIP archive without its end record; is the file cut off?");
}

Directory find_directory(const Record& file) {
  const uint64_t end = find_end(file);
  Directory found{file.u32(end + 16), file.u32(end + 12), file.u16(end + 10)};
  uint64_t limit = end;  // where the directory ends at the latest
  if (end >= locator64_size && file.u32(end - locator64_size) == locator64_signature) {
    const uint64_t end64 = file.u64(end - locator64_size + 8);
    const auto behind = checked_add(end64, end64_size);
    if (!behind || *behind > end - locator64_size || file.u32(end64) != end64_signature) {
      throw Error(file.where,
                  "damaged ZIP archive: its ZIP64 end record is not where it should be");
    }
    const Directory wide{file.u64(end64 + 48), file.u64(end64 + 40), file.u64(end64 + 32)};
    const auto agree = [](uint64_t narrow, uint64_t full, uint64_t marker) {
      return narrow == full || narrow == marker;
    };
    if (!agree(found.offset, wide.offset, in_zip64) || !agree(found.size, wide.size, in_zip64) ||
        !agree(found.n_entries, wide.n_entries, 0xFFFF)) {
      throw Error(file.where,
                  "damaged ZIP archive: its ZIP64 end record contradicts the plain one");
    }
    found = wide;
    limit = end64;
  }
  const auto stop = checked_add(found.offset, found.size);
  if (!stop || *stop > limit) {
    throw Error(file.where, "damaged ZIP archive: its directory reaches past its end record");
  }
  if (found.n_entries > std::min(max_entries, found.size / central_size)) {
    throw Error(file.where, "damaged ZIP archive: claims " + std::to_string(found.n_entries) +
                                " entries, more than fit");
  }
  return found;
}

struct ZipEntry {
  std::string name;
  uint64_t header;  // offset of the local header
  uint64_t size;
};

/// Fills in the fields that only the ZIP64 extra field of a directory entry has.
void read_zip64(const Record& extra, bool wants_packed, ZipEntry& entry, uint64_t& packed) {
  const bool wants_size = entry.size == in_zip64;
  const bool wants_header = entry.header == in_zip64;
  if (!wants_size && !wants_packed && !wants_header) return;
  for (uint64_t at = 0; at + 4 <= extra.bytes.size();) {
    const uint16_t size = extra.u16(at + 2);
    const Record field{extra.part(at + 4, size), extra.where};
    at += 4 + uint64_t{size};
    if (extra.u16(at - 4 - size) != zip64_extra) continue;
    uint64_t next = 0;
    const auto take = [&](bool wanted, uint64_t& value) {
      if (wanted) value = field.u64(std::exchange(next, next + 8));
    };
    take(wants_size, entry.size);
    take(wants_packed, packed);
    take(wants_header, entry.header);
    return;
  }
}

bool is_safe_name(std::string_view name) {
  if (name.empty() || name.size() > 1024 || name[0] == '/') return false;
  if (name.find_first_of(std::string_view("\\\0:", 3)) != std::string_view::npos) return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const auto part = name.substr(begin, end - begin);
    if (part == ".." || part == ".") return false;
    begin = end + 1;
  }
  return true;
}

/// Reads the directory entry at `at` and moves behind it.
ZipEntry read_entry(const Record& directory, uint64_t& at) {
  if (directory.u32(at) != central_signature) {
    throw Error(directory.where, "damaged ZIP archive: no directory entry at directory offset " +
                                     std::to_string(at));
  }
  const uint16_t flags = directory.u16(at + 8);
  const uint16_t method = directory.u16(at + 10);
  const uint16_t name_size = directory.u16(at + 28);
  const uint16_t extra_size = directory.u16(at + 30);
  const uint16_t comment_size = directory.u16(at + 32);
  uint64_t packed = directory.u32(at + 20);
  ZipEntry entry{std::string(directory.text(at + central_size, name_size)), directory.u32(at + 42),
                 directory.u32(at + 24)};
  const std::string where = std::string(directory.where) + ": entry '" + entry.name + "'";
  if (!is_safe_name(entry.name)) throw Error(where, "is not a safe file name");
  const Record extra{directory.part(at + central_size + name_size, extra_size), where};
  read_zip64(extra, packed == in_zip64, entry, packed);
  if ((flags & 1) != 0) throw Error(where, "is encrypted");
  if (method != 0) {
    throw Error(where, "is compressed (method " + std::to_string(method) +
                           "); PyTorch only stores, and so do we: save it again with torch.save");
  }
  if (packed != entry.size) {
    throw Error(where, "is stored, but has " + std::to_string(packed) + " bytes for " +
                           std::to_string(entry.size));
  }
  at += central_size + name_size + extra_size + comment_size;
  return entry;
}

/// Offset of the entry's data; its local header must tell the same story as the directory.
uint64_t data_offset(const Record& file, const ZipEntry& entry, const std::string& where) {
  const Record header{file.part(entry.header, local_size), where};
  if (header.u32(0) != local_signature) throw Error(where, "has no header where it should be");
  const uint16_t name_size = header.u16(26);
  const uint64_t name_at = entry.header + local_size;
  if (header.u16(8) != 0 || file.text(name_at, name_size) != entry.name) {
    throw Error(where, "its header contradicts the archive's directory");
  }
  return name_at + name_size + header.u16(28);
}

}  // namespace

std::map<std::string, std::span<const std::byte>, std::less<>> parse_zip(
    std::span<const std::byte> archive, std::string_view where) {
  const Record file{archive, where};
  const Directory found = find_directory(file);
  const Record directory{file.part(found.offset, found.size), where};
  std::vector<ZipEntry> entries;
  uint64_t at = 0;
  for (uint64_t i = 0; i < found.n_entries; ++i) entries.push_back(read_entry(directory, at));
  if (at > found.size) throw Error(where, "damaged ZIP archive: its directory is cut off");

  std::ranges::sort(entries, {}, &ZipEntry::header);
  std::map<std::string, std::span<const std::byte>, std::less<>> files;
  uint64_t end = 0;  // of the entries so far
  for (const ZipEntry& entry : entries) {
    const std::string entry_where = std::string(where) + ": entry '" + entry.name + "'";
    if (entry.header < end) throw Error(entry_where, "overlaps the entry before it");
    const uint64_t begin = data_offset(file, entry, entry_where);
    const auto stop = checked_add(begin, entry.size);
    if (!stop || *stop > found.offset) {
      throw Error(entry_where, "its " + std::to_string(entry.size) +
                                   " bytes reach into the archive's directory");
    }
    end = *stop;
    if (!files.emplace(entry.name, archive.subspan(begin, entry.size)).second) {
      throw Error(entry_where, "is there twice");
    }
  }
  return files;
}

}  // namespace vga
