#include "pickle.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <unordered_map>
#include <utility>
#include <variant>

#include "base/checked.h"
#include "vga/error.h"

namespace vga {
namespace {

static_assert(std::endian::native == std::endian::little, "pickle numbers are read in place");

// An instruction of one byte makes an object of many; these limits bound memory. A real state dict
// has some twenty objects for each tensor.
constexpr size_t max_objects = 1 << 20;
constexpr size_t max_pickle = 64 << 20;
constexpr size_t max_rank = 8;
constexpr size_t max_storage_key = 64;

/// Instructions by the names that Python's pickletools gives them. Those that we follow, and those
/// that are worth naming when we refuse them.
enum class Op : uint8_t {
  MARK = '(',
  STOP = '.',
  BININT = 'J',
  BININT1 = 'K',
  BININT2 = 'M',
  NONE = 'N',
  BINPERSID = 'Q',
  REDUCE = 'R',
  BINUNICODE = 'X',
  APPEND = 'a',
  BUILD = 'b',
  GLOBAL = 'c',
  EMPTY_DICT = '}',
  APPENDS = 'e',
  BINGET = 'h',
  LONG_BINGET = 'j',
  EMPTY_LIST = ']',
  BINPUT = 'q',
  LONG_BINPUT = 'r',
  SETITEM = 's',
  TUPLE = 't',
  EMPTY_TUPLE = ')',
  SETITEMS = 'u',
  BINFLOAT = 'G',
  PROTO = 0x80,
  TUPLE1 = 0x85,
  TUPLE2 = 0x86,
  TUPLE3 = 0x87,
  NEWTRUE = 0x88,
  NEWFALSE = 0x89,
  LONG1 = 0x8a,
  SHORT_BINUNICODE = 0x8c,
  STACK_GLOBAL = 0x93,
  MEMOIZE = 0x94,
  FRAME = 0x95,
};
constexpr std::array<std::pair<uint8_t, std::string_view>, 24> refused_names = {
    {{'0', "POP"},        {'1', "POP_MARK"},
     {'2', "DUP"},        {'F', "FLOAT"},
     {'I', "INT"},        {'L', "LONG"},
     {'P', "PERSID"},     {'S', "STRING"},
     {'T', "BINSTRING"},  {'U', "SHORT_BINSTRING"},
     {'V', "UNICODE"},    {'d', "DICT"},
     {'g', "GET"},        {'i', "INST"},
     {'l', "LIST"},       {'o', "OBJ"},
     {'p', "PUT"},        {0x81, "NEWOBJ"},
     {0x82, "EXT1"},      {0x8b, "LONG4"},
     {0x8e, "BINBYTES8"}, {0x8f, "EMPTY_SET"},
     {0x92, "NEWOBJ_EX"}, {'C', "SHORT_BINBYTES"}}};

struct StorageType {
  std::string_view name;
  uint64_t bytes;
  std::optional<DType> type;
};
constexpr std::array<StorageType, 12> storage_types = {{{"FloatStorage", 4, DType::f32},
                                                        {"HalfStorage", 2, DType::f16},
                                                        {"BFloat16Storage", 2, DType::bf16},
                                                        {"DoubleStorage", 8, {}},
                                                        {"LongStorage", 8, {}},
                                                        {"IntStorage", 4, {}},
                                                        {"ShortStorage", 2, {}},
                                                        {"CharStorage", 1, {}},
                                                        {"ByteStorage", 1, {}},
                                                        {"BoolStorage", 1, {}},
                                                        {"ComplexFloatStorage", 8, {}},
                                                        {"ComplexDoubleStorage", 16, {}}}};

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
/// Strings are views of the pickle.
using Object = std::variant<None, Mark, bool, int64_t, double, std::string_view, List, Tuple, Dict,
                            Function, const StorageType*, Storage, Tensor>;

constexpr std::array<std::string_view, std::variant_size_v<Object>> kind_names = {
    "None",    "a mark", "a boolean",  "an integer",     "a float",   "a string", "a list",
    "a tuple", "a dict", "a function", "a storage type", "a storage", "a tensor"};

class Machine {
 public:
  Machine(std::span<const std::byte> pickle, std::string_view where)
      : pickle_(pickle), where_(where) {}

  /// Runs to STOP; the object it leaves.
  Index run();

  const Object& object(Index i) const { return objects_[i]; }
  std::string_view kind(Index i) const { return kind_names[objects_[i].index()]; }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(where_, "pickle offset " + std::to_string(op_at_) + ": " + what);
  }

  std::span<const std::byte> take(uint64_t n) {
    if (n > pickle_.size() - at_) {
      fail("wants " + std::to_string(n) + " bytes, " + std::to_string(pickle_.size() - at_) +
           " are left");
    }
    const auto taken = pickle_.subspan(at_, n);
    at_ += n;
    return taken;
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view text(uint64_t size) {
    const auto bytes = take(size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::string_view line() {
    const auto rest = pickle_.subspan(at_);
    const auto end = std::ranges::find(rest, std::byte{'\n'});
    if (end == rest.end()) fail("a name without an end");
    const auto name = text(static_cast<uint64_t>(end - rest.begin()));
    take(1);
    return name;
  }

  void push(Object object) {
    if (objects_.size() >= max_objects) {
      fail("more than " + std::to_string(max_objects) + " objects; save only the state dict");
    }
    stack_.push_back(static_cast<Index>(objects_.size()));
    objects_.push_back(std::move(object));
  }
  Index pop() {
    if (stack_.empty()) fail("the stack is empty");
    const Index top = stack_.back();
    stack_.pop_back();
    if (std::holds_alternative<Mark>(objects_[top])) fail("found a mark, wanted a value");
    return top;
  }
  std::vector<Index> pop_to_mark() {
    auto begin = stack_.end();
    while (begin != stack_.begin() && !std::holds_alternative<Mark>(objects_[*(begin - 1)])) {
      --begin;
    }
    if (begin == stack_.begin()) fail("no mark on the stack");
    std::vector<Index> items(begin, stack_.end());
    stack_.erase(begin - 1, stack_.end());
    return items;
  }
  std::vector<Index> pop_n(size_t n) {
    std::vector<Index> items(n);
    for (size_t i = n; i-- > 0;) items[i] = pop();
    return items;
  }

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
  uint64_t size_of(Index i, std::string_view what) {
    const int64_t value = as<int64_t>(i, what);
    if (value < 0) fail(std::string(what) + " is " + std::to_string(value));
    return static_cast<uint64_t>(value);
  }
  std::vector<uint64_t> sizes_of(Index i, std::string_view what) {
    const Tuple tuple = as<Tuple>(i, what);
    if (tuple.items.size() > max_rank) fail(std::string(what) + " has too many dimensions");
    std::vector<uint64_t> sizes;
    for (const Index item : tuple.items) sizes.push_back(size_of(item, what));
    return sizes;
  }

  void put(uint32_t key) {
    const Index top = stack_.empty() ? max_objects : stack_.back();
    if (top == max_objects) fail("the stack is empty");
    memo_[key] = top;
  }
  void get(uint32_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) fail("memo " + std::to_string(key) + " was never set");
    stack_.push_back(found->second);
  }

  void step(Op op);
  void push_long(uint64_t size);
  void push_global(std::string_view module, std::string_view name);
  void push_storage(Index id);
  void set_items(Dict& dict, std::span<const Index> items);
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

Index Machine::run() {
  if (pickle_.size() > max_pickle) {
    throw Error(where_, "a pickle of " + std::to_string(pickle_.size()) + " bytes, the limit is " +
                            std::to_string(max_pickle));
  }
  while (true) {
    op_at_ = at_;
    const auto op = static_cast<Op>(number<uint8_t>());
    if (op == Op::STOP) break;
    step(op);
  }
  const Index result = pop();
  if (!stack_.empty()) fail("values are left on the stack at the end");
  return result;
}

void Machine::step(Op op) {
  switch (op) {
    case Op::PROTO:
      if (const int version = number<uint8_t>(); version < 2 || version > 5) {
        fail("pickle protocol " + std::to_string(version) + ", wanted 2 to 5");
      }
      return;
    case Op::FRAME:
      take(8);
      return;
    case Op::NONE:
      return push(None{});
    case Op::NEWTRUE:
      return push(true);
    case Op::NEWFALSE:
      return push(false);
    case Op::BININT:
      return push(int64_t{number<int32_t>()});
    case Op::BININT1:
      return push(int64_t{number<uint8_t>()});
    case Op::BININT2:
      return push(int64_t{number<uint16_t>()});
    case Op::LONG1:
      return push_long(number<uint8_t>());
    case Op::BINFLOAT:
      // Big-endian, and no float decides anything here.
      take(8);
      return push(0.0);
    case Op::BINUNICODE:
      return push(text(number<uint32_t>()));
    case Op::SHORT_BINUNICODE:
      return push(text(number<uint8_t>()));
    case Op::EMPTY_DICT:
      return push(Dict{});
    case Op::EMPTY_LIST:
      return push(List{});
    case Op::EMPTY_TUPLE:
      return push(Tuple{});
    case Op::MARK:
      return push(Mark{});
    case Op::TUPLE:
      return push(Tuple{pop_to_mark()});
    case Op::TUPLE1:
      return push(Tuple{pop_n(1)});
    case Op::TUPLE2:
      return push(Tuple{pop_n(2)});
    case Op::TUPLE3:
      return push(Tuple{pop_n(3)});
    case Op::APPEND: {
      const Index item = pop();
      top_as<List>("what is appended to").items.push_back(item);
      return;
    }
    case Op::APPENDS: {
      const auto items = pop_to_mark();
      auto& list = top_as<List>("what is appended to").items;
      list.insert(list.end(), items.begin(), items.end());
      return;
    }
    case Op::SETITEM: {
      const auto item = pop_n(2);
      return set_items(top_as<Dict>("what items are set in"), item);
    }
    case Op::SETITEMS: {
      const auto items = pop_to_mark();
      return set_items(top_as<Dict>("what items are set in"), items);
    }
    case Op::BINPUT:
      return put(number<uint8_t>());
    case Op::LONG_BINPUT:
      return put(number<uint32_t>());
    case Op::MEMOIZE:
      return put(static_cast<uint32_t>(memo_.size()));
    case Op::BINGET:
      return get(number<uint8_t>());
    case Op::LONG_BINGET:
      return get(number<uint32_t>());
    case Op::GLOBAL: {
      const auto module = line();
      return push_global(module, line());
    }
    case Op::STACK_GLOBAL: {
      const auto names = pop_n(2);
      return push_global(as<std::string_view>(names[0], "the module of a global"),
                         as<std::string_view>(names[1], "the name of a global"));
    }
    case Op::BINPERSID:
      return push_storage(pop());
    case Op::REDUCE:
      return reduce();
    case Op::BUILD:
      return build();
    case Op::STOP:
      break;
  }
  const auto code = static_cast<uint8_t>(op);
  const auto* refused =
      std::ranges::find(refused_names, code, &decltype(refused_names)::value_type::first);
  fail("instruction " +
       (refused != refused_names.end() ? std::string(refused->second) : std::to_string(code)) +
       " is not one that a state dict needs; refused");
}

void Machine::push_long(uint64_t size) {
  if (size > 8) fail("an integer of " + std::to_string(size) + " bytes, wanted at most 8");
  const auto bytes = take(size);
  // Little-endian two's complement of any length: the last byte has the sign.
  const bool negative = size > 0 && (bytes.back() & std::byte{0x80}) != std::byte{0};
  int64_t value = negative ? -1 : 0;
  if (size > 0) std::memcpy(&value, bytes.data(), size);
  push(value);
}

void Machine::push_global(std::string_view module, std::string_view name) {
  if (module == "collections" && name == "OrderedDict") return push(Function::ordered_dict);
  if (module == "torch._utils" && name == "_rebuild_tensor_v2") {
    return push(Function::rebuild_tensor);
  }
  if (module == "torch._utils" && name == "_rebuild_parameter") {
    return push(Function::rebuild_parameter);
  }
  if (module == "torch") {
    const auto* type = std::ranges::find(storage_types, name, &StorageType::name);
    if (type != storage_types.end()) return push(type);
  }
  fail("global '" + std::string(module.substr(0, 100)) + "." + std::string(name.substr(0, 100)) +
       "' is not one that a state dict needs; refused, nothing was run. To save only the weights: "
       "torch.save(model.state_dict(), FILE)");
}

/// The persistent id ('storage', type, key, device, elements).
void Machine::push_storage(Index id) {
  const Tuple tuple = as<Tuple>(id, "a persistent id");
  if (tuple.items.size() != 5 ||
      as<std::string_view>(tuple.items[0], "the kind of a persistent id") != "storage") {
    fail("a persistent id that is no storage");
  }
  // Every tensor of a storage repeats its key: a long one would multiply.
  if (as<std::string_view>(tuple.items[2], "the key of a storage").size() > max_storage_key) {
    fail("the key of a storage is too long");
  }
  push(Storage{as<const StorageType*>(tuple.items[1], "the type of a storage"), tuple.items[2],
               size_of(tuple.items[4], "the size of a storage")});
}

void Machine::set_items(Dict& dict, std::span<const Index> items) {
  if (items.size() % 2 != 0) fail("a key without a value");
  for (size_t i = 0; i < items.size(); i += 2) dict.items.emplace_back(items[i], items[i + 1]);
}

/// An object's attributes: an OrderedDict carries module versions there, which say nothing to us.
void Machine::build() {
  const Index state = pop();
  as<Dict>(state, "the state of an object");
  top_as<Dict>("an object with state");
}

void Machine::reduce() {
  const Index arguments_at = pop();
  const Index function_at = pop();
  const Tuple arguments = as<Tuple>(arguments_at, "a function's arguments");
  switch (as<Function>(function_at, "what is called")) {
    case Function::ordered_dict:
      if (!arguments.items.empty()) fail("OrderedDict called with arguments");
      return push(Dict{});
    case Function::rebuild_tensor:
      return rebuild_tensor(arguments);
    case Function::rebuild_parameter:
      // (tensor, requires_grad, hooks): the tensor itself is all that matters.
      if (arguments.items.size() != 3) fail("_rebuild_parameter wants 3 arguments");
      as<Tensor>(arguments.items[0], "the data of a parameter");
      stack_.push_back(arguments.items[0]);
      return;
  }
}

/// (storage, offset, shape, strides, requires_grad, hooks[, metadata])
void Machine::rebuild_tensor(const Tuple& arguments) {
  const auto& items = arguments.items;
  if (items.size() != 6 && items.size() != 7) fail("_rebuild_tensor_v2 wants 6 or 7 arguments");
  const Storage storage = as<Storage>(items[0], "the storage of a tensor");
  Tensor tensor{items[0], size_of(items[1], "the offset of a tensor"),
                sizes_of(items[2], "the shape of a tensor"),
                sizes_of(items[3], "the strides of a tensor")};
  if (tensor.shape.size() != tensor.strides.size()) fail("a tensor with more sizes than strides");
  // One past the last element that the view can touch.
  std::optional<uint64_t> end = checked_add(tensor.offset, 1);
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    if (tensor.shape[d] == 0) end = tensor.offset;
    if (tensor.shape[d] == 0) break;
    const auto reach = checked_mul(tensor.shape[d] - 1, tensor.strides[d]);
    end = end && reach ? checked_add(*end, *reach) : std::nullopt;
  }
  if (!end || *end > storage.elements || !checked_product(tensor.shape)) {
    fail("a tensor reaches past the " + std::to_string(storage.elements) +
         " elements of its storage");
  }
  if (!checked_mul(storage.elements, storage.type->bytes)) fail("the size of a storage overflows");
  push(std::move(tensor));
}

/// The value of `key` in `dict`, if it is a dict itself.
std::optional<Index> nested_dict(const Machine& machine, const Dict& dict, std::string_view key) {
  std::optional<Index> found;
  for (const auto& [name, value] : dict.items) {
    const auto* text = std::get_if<std::string_view>(&machine.object(name));
    if (text == nullptr || *text != key) continue;
    if (std::holds_alternative<Dict>(machine.object(value))) found = value;
  }
  return found;
}

const Dict& find_state(const Machine& machine, Index root, std::string_view where) {
  const auto* dict = std::get_if<Dict>(&machine.object(root));
  if (dict == nullptr) {
    throw Error(where, "wanted a dict of tensors, found " + std::string(machine.kind(root)));
  }
  for (const std::string_view key : {"model", "state_dict", "model_state_dict"}) {
    if (const auto nested = nested_dict(machine, *dict, key)) {
      return std::get<Dict>(machine.object(*nested));
    }
  }
  return *dict;
}

}  // namespace

std::vector<NamedTensor> parse_pickled_state(std::span<const std::byte> pickle,
                                             std::string_view where) {
  Machine machine(pickle, where);
  const Index root = machine.run();
  std::vector<NamedTensor> tensors;
  std::set<std::string_view> names;
  for (const auto& [key, value] : find_state(machine, root, where).items) {
    const auto* name = std::get_if<std::string_view>(&machine.object(key));
    if (name == nullptr) {
      throw Error(where, "a key of the state dict is " + std::string(machine.kind(key)) +
                             ", wanted a tensor's name");
    }
    const auto* tensor = std::get_if<Tensor>(&machine.object(value));
    if (tensor == nullptr) {
      throw Error(where, "state dict entry '" + std::string(*name) + "': wanted a tensor, found " +
                             std::string(machine.kind(value)));
    }
    if (!names.insert(*name).second) {
      throw Error(where, "tensor '" + std::string(*name) + "' is there twice");
    }
    const auto& storage = std::get<Storage>(machine.object(tensor->storage));
    tensors.push_back({std::string(*name),
                       {std::string(storage.type->name), storage.type->type,
                        std::string(std::get<std::string_view>(machine.object(storage.key))),
                        storage.elements * storage.type->bytes,
                        tensor->offset * storage.type->bytes, tensor->shape, tensor->strides}});
  }
  return tensors;
}

}  // namespace vga
