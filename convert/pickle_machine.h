#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "vga/dtype.h"

namespace vga::pickle {

/// What elements of a storage are.
struct StorageType {
  std::string_view name;
  uint64_t bytes;
  std::optional<DType> type;  // nullopt for types weights do not come in
};

/// Objects live in one array and refer to each other by index: cycles and deep nesting, which a
/// pickle may well have, need no care.
using Index = uint32_t;

struct None {};
struct Mark {};
struct List {
  std::vector<Index> items;
};
struct Tuple {
  std::vector<Index> items;
};
struct Dict {
  std::vector<std::pair<Index, Index>> items;
};
enum class Function { ordered_dict, rebuild_tensor, rebuild_parameter };
struct Storage {
  const StorageType* type;
  Index key;
  uint64_t elements;
};
struct Tensor {
  Index storage;
  uint64_t offset;  // in elements
  std::vector<uint64_t> shape;
  std::vector<uint64_t> strides;
};
/// Something that people keep beside their weights: a numpy scalar, a set, a namespace. It is never
/// built: whatever is called, set or appended on it is dropped.
struct Skipped {};
/// Strings are views of the pickle.
using Object = std::variant<None, Mark, bool, int64_t, double, std::string_view, List, Tuple, Dict,
                            Function, const StorageType*, Storage, Tensor, Skipped>;

enum class Op : uint8_t;

/// Runs the instructions that state dicts and plain values are made of, and nothing else. An Error
/// naming `where`, the offset and the instruction or global for everything that it does not know.
class Machine {
 public:
  Machine(std::span<const std::byte> pickle, std::string_view where)
      : pickle_(pickle), where_(where) {}

  /// Runs to STOP; the object it leaves.
  Index run();

  const Object& object(Index i) const { return objects_[i]; }
  std::string_view kind(Index i) const;

 private:
  [[noreturn]] void fail(const std::string& what) const;

  std::span<const std::byte> take(uint64_t n);
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view text(uint64_t size);
  std::string_view line();

  void push(Object object);
  Index pop();
  std::vector<Index> pop_to_mark();
  std::vector<Index> pop_n(size_t n);

  /// The object as a T; an Error saying what `what` must be otherwise.
  template <class T>
  T& as(Index i, std::string_view what) {
    if (auto* found = std::get_if<T>(&objects_[i])) return *found;
    fail(std::string(what) + " is " + std::string(kind(i)));
  }
  template <class T>
  T& top_as(std::string_view what) {
    if (stack_.empty()) fail("the stack is empty");
    return as<T>(stack_.back(), what);
  }
  uint64_t size_of(Index i, std::string_view what);
  std::vector<uint64_t> sizes_of(Index i, std::string_view what);

  void put(uint32_t key);
  void get(uint32_t key);

  void step(Op op);
  bool push_value(Op op);
  bool collect(Op op);
  bool use_memo(Op op);
  void push_long(uint64_t size);
  void push_global(std::string_view module, std::string_view name);
  void push_storage(Index id);
  void set(std::span<const Index> items);
  void append(std::span<const Index> items);
  void build();
  void reduce();
  void rebuild_tensor(const Tuple& arguments);

  std::span<const std::byte> pickle_;
  std::string_view where_;
  uint64_t at_ = 0;
  uint64_t op_at_ = 0;  // of the current instruction
  std::vector<Object> objects_;
  std::vector<Index> stack_;
  std::unordered_map<uint32_t, Index> memo_;
};

}  // namespace vga::pickle
