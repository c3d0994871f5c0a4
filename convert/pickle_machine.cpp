#include "pickle_machine.h"

#include <algorithm>
#include <bit>

#include "base/checked.h"
#include "vga/error.h"

namespace vga::pickle {

/// Instructions by the names that Python's pickletools gives them.
enum class Op : uint8_t {
  MARK = '(',
  EMPTY_TUPLE = ')',
  STOP = '.',
  BINBYTES = 'B',
  SHORT_BINBYTES = 'C',
  BINFLOAT = 'G',
  BININT = 'J',
  BININT1 = 'K',
  BININT2 = 'M',
  NONE = 'N',
  BINPERSID = 'Q',
  REDUCE = 'R',
  BINUNICODE = 'X',
  EMPTY_LIST = ']',
  APPEND = 'a',
  BUILD = 'b',
  GLOBAL = 'c',
  APPENDS = 'e',
  BINGET = 'h',
  LONG_BINGET = 'j',
  BINPUT = 'q',
  LONG_BINPUT = 'r',
  SETITEM = 's',
  TUPLE = 't',
  SETITEMS = 'u',
  EMPTY_DICT = '}',
  PROTO = 0x80,
  NEWOBJ = 0x81,
  TUPLE1 = 0x85,
  TUPLE2 = 0x86,
  TUPLE3 = 0x87,
  NEWTRUE = 0x88,
  NEWFALSE = 0x89,
  LONG1 = 0x8a,
  LONG4 = 0x8b,
  SHORT_BINUNICODE = 0x8c,
  BINUNICODE8 = 0x8d,
  BINBYTES8 = 0x8e,
  EMPTY_SET = 0x8f,
  ADDITEMS = 0x90,
  FROZENSET = 0x91,
  NEWOBJ_EX = 0x92,
  STACK_GLOBAL = 0x93,
  MEMOIZE = 0x94,
  FRAME = 0x95,
  BYTEARRAY8 = 0x96,
};

namespace {

static_assert(std::endian::native == std::endian::little, "pickle numbers are read in place");

// An instruction of one byte makes an object of many; these limits bound memory. A real state dict
// has some twenty objects for each tensor.
constexpr size_t max_objects = 1 << 20;
constexpr size_t max_pickle = 64 << 20;
constexpr size_t max_rank = 8;
constexpr size_t max_storage_key = 64;

/// Instructions that are worth naming when we refuse them.
constexpr std::array<std::pair<uint8_t, std::string_view>, 18> refused_names = {
    {{'0', "POP"},
     {'1', "POP_MARK"},
     {'2', "DUP"},
     {'F', "FLOAT"},
     {'I', "INT"},
     {'L', "LONG"},
     {'P', "PERSID"},
     {'S', "STRING"},
     {'T', "BINSTRING"},
     {'U', "SHORT_BINSTRING"},
     {'V', "UNICODE"},
     {'d', "DICT"},
     {'g', "GET"},
     {'i', "INST"},
     {'l', "LIST"},
     {'o', "OBJ"},
     {'p', "PUT"},
     {0x82, "EXT1"}}};

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

constexpr std::array<std::string_view, std::variant_size_v<Object>> kind_names = {
    "None",           "a mark",
    "a boolean",      "an integer",
    "a float",        "a string",
    "a list",         "a tuple",
    "a dict",         "a function",
    "a storage type", "a storage",
    "a tensor",       "something that is not read"};

/// A global that we neither build nor run: `name`, or all that a module has.
struct Harmless {
  std::string_view module;  // one that ends with '.' stands for all modules below it
  std::string_view name;    // empty stands for all
};
constexpr auto harmless = std::to_array<Harmless>({
    {"_codecs", "encode"},
    {"argparse", "Namespace"},
    {"collections", "Counter"},
    {"collections", "defaultdict"},
    {"collections", "deque"},
    {"datetime", ""},
    {"lightning.", "AttributeDict"},
    {"lightning_fabric.", "AttributeDict"},
    {"pytorch_lightning.", "AttributeDict"},
    {"numpy", "dtype"},
    {"numpy", "ndarray"},
    {"numpy._core.multiarray", "_reconstruct"},
    {"numpy._core.multiarray", "scalar"},
    {"numpy._core.numeric", "_frombuffer"},
    {"numpy.core.multiarray", "_reconstruct"},
    {"numpy.core.multiarray", "scalar"},
    {"numpy.core.numeric", "_frombuffer"},
    {"omegaconf.", ""},
    {"pathlib", ""},
    {"pathlib.", ""},
    {"torch", "Size"},
    {"torch", "device"},
    {"torch", "float64"},
    {"torch", "float32"},
    {"torch", "float16"},
    {"torch", "bfloat16"},
    {"torch", "int64"},
    {"torch", "int32"},
    {"torch", "int16"},
    {"torch", "int8"},
    {"torch", "uint8"},
    {"torch", "bool"},
    {"torch.torch_version", "TorchVersion"},
    {"types", "SimpleNamespace"},
    {"typing", "Any"},
});

constexpr std::array<std::string_view, 16> harmless_builtins = {
    "bool", "bytearray", "bytes", "complex", "dict",  "float", "frozenset", "int",
    "list", "object",    "range", "set",     "slice", "str",   "tuple",     "xrange"};

bool is_harmless(std::string_view module, std::string_view name) {
  if (module == "builtins" || module == "__builtin__") {
    return std::ranges::find(harmless_builtins, name) != harmless_builtins.end();
  }
  return std::ranges::any_of(harmless, [&](const Harmless& known) {
    const bool same_module =
        known.module.ends_with('.') ? module.starts_with(known.module) : module == known.module;
    return same_module && (known.name.empty() || known.name == name);
  });
}

}  // namespace

std::string_view Machine::kind(Index i) const {
  return kind_names[objects_[i].index()];
}

void Machine::fail(const std::string& what) const {
  throw Error(where_, "pickle offset " + std::to_string(op_at_) + ": " + what);
}

std::span<const std::byte> Machine::take(uint64_t n) {
  if (n > pickle_.size() - at_) {
    fail("wants " + std::to_string(n) + " bytes, " + std::to_string(pickle_.size() - at_) +
         " are left");
  }
  const auto taken = pickle_.subspan(at_, n);
  at_ += n;
  return taken;
}

std::string_view Machine::text(uint64_t size) {
  const auto bytes = take(size);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string_view Machine::line() {
  const auto rest = pickle_.subspan(at_);
  const auto end = std::ranges::find(rest, std::byte{'\n'});
  if (end == rest.end()) fail("a name without an end");
  const auto name = text(static_cast<uint64_t>(end - rest.begin()));
  take(1);
  return name;
}

void Machine::push(Object object) {
  if (objects_.size() >= max_objects) {
    fail("more than " + std::to_string(max_objects) + " objects; save only the state dict");
  }
  stack_.push_back(static_cast<Index>(objects_.size()));
  objects_.push_back(std::move(object));
}

Index Machine::pop() {
  if (stack_.empty()) fail("the stack is empty");
  const Index top = stack_.back();
  stack_.pop_back();
  if (std::holds_alternative<Mark>(objects_[top])) fail("found a mark, wanted a value");
  return top;
}

std::vector<Index> Machine::pop_to_mark() {
  auto begin = stack_.end();
  while (begin != stack_.begin() && !std::holds_alternative<Mark>(objects_[*(begin - 1)])) {
    --begin;
  }
  if (begin == stack_.begin()) fail("no mark on the stack");
  std::vector<Index> items(begin, stack_.end());
  stack_.erase(begin - 1, stack_.end());
  return items;
}

std::vector<Index> Machine::pop_n(size_t n) {
  std::vector<Index> items(n);
  for (size_t i = n; i-- > 0;) items[i] = pop();
  return items;
}

uint64_t Machine::size_of(Index i, std::string_view what) {
  const int64_t value = as<int64_t>(i, what);
  if (value < 0) fail(std::string(what) + " is " + std::to_string(value));
  return static_cast<uint64_t>(value);
}

std::vector<uint64_t> Machine::sizes_of(Index i, std::string_view what) {
  const Tuple tuple = as<Tuple>(i, what);
  if (tuple.items.size() > max_rank) fail(std::string(what) + " has too many dimensions");
  std::vector<uint64_t> sizes;
  for (const Index item : tuple.items) sizes.push_back(size_of(item, what));
  return sizes;
}

void Machine::put(uint32_t key) {
  const Index top = stack_.empty() ? max_objects : stack_.back();
  if (top == max_objects) fail("the stack is empty");
  memo_[key] = top;
}

void Machine::get(uint32_t key) {
  const auto found = memo_.find(key);
  if (found == memo_.end()) fail("memo " + std::to_string(key) + " was never set");
  stack_.push_back(found->second);
}

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
  if (push_value(op) || collect(op) || use_memo(op)) return;
  switch (op) {
    case Op::PROTO:
      if (const int version = number<uint8_t>(); version < 2 || version > 5) {
        fail("pickle protocol " + std::to_string(version) + ", wanted 2 to 5");
      }
      return;
    case Op::FRAME:
      take(8);
      return;
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
    case Op::NEWOBJ:
      as<Skipped>(pop_n(2)[0], "the class of a new object");
      return push(Skipped{});
    case Op::NEWOBJ_EX:
      as<Skipped>(pop_n(3)[0], "the class of a new object");
      return push(Skipped{});
    case Op::BUILD:
      return build();
    default:
      break;
  }
  const auto code = static_cast<uint8_t>(op);
  const auto* refused =
      std::ranges::find(refused_names, code, &decltype(refused_names)::value_type::first);
  fail("instruction " +
       (refused != refused_names.end() ? std::string(refused->second) : std::to_string(code)) +
       " is not one that a state dict needs; refused");
}

/// What stands in the pickle itself. False if `op` is another instruction.
bool Machine::push_value(Op op) {
  const auto skip = [&](uint64_t size) {
    take(size);
    push(Skipped{});
  };
  switch (op) {
    case Op::NONE:
      return push(None{}), true;
    case Op::NEWTRUE:
      return push(true), true;
    case Op::NEWFALSE:
      return push(false), true;
    case Op::BININT:
      return push(int64_t{number<int32_t>()}), true;
    case Op::BININT1:
      return push(int64_t{number<uint8_t>()}), true;
    case Op::BININT2:
      return push(int64_t{number<uint16_t>()}), true;
    case Op::LONG1:
      return push_long(number<uint8_t>()), true;
    case Op::LONG4:
      return push_long(number<uint32_t>()), true;
    case Op::BINFLOAT:
      // Big-endian, and no float decides anything here.
      take(8);
      return push(0.0), true;
    case Op::SHORT_BINUNICODE:
      return push(text(number<uint8_t>())), true;
    case Op::BINUNICODE:
      return push(text(number<uint32_t>())), true;
    case Op::BINUNICODE8:
      return push(text(number<uint64_t>())), true;
    case Op::SHORT_BINBYTES:
      return skip(number<uint8_t>()), true;
    case Op::BINBYTES:
      return skip(number<uint32_t>()), true;
    case Op::BINBYTES8:
    case Op::BYTEARRAY8:
      return skip(number<uint64_t>()), true;
    default:
      return false;
  }
}

/// Lists, tuples, dicts and sets. False if `op` is another instruction.
bool Machine::collect(Op op) {
  switch (op) {
    case Op::EMPTY_DICT:
      return push(Dict{}), true;
    case Op::EMPTY_LIST:
      return push(List{}), true;
    case Op::EMPTY_TUPLE:
      return push(Tuple{}), true;
    case Op::EMPTY_SET:
      return push(Skipped{}), true;
    case Op::MARK:
      return push(Mark{}), true;
    case Op::TUPLE:
      return push(Tuple{pop_to_mark()}), true;
    case Op::TUPLE1:
      return push(Tuple{pop_n(1)}), true;
    case Op::TUPLE2:
      return push(Tuple{pop_n(2)}), true;
    case Op::TUPLE3:
      return push(Tuple{pop_n(3)}), true;
    case Op::FROZENSET:
      pop_to_mark();
      return push(Skipped{}), true;
    case Op::APPEND:
      return append(pop_n(1)), true;
    case Op::APPENDS:
      return append(pop_to_mark()), true;
    case Op::ADDITEMS:
      pop_to_mark();
      top_as<Skipped>("the set that items are added to");
      return true;
    case Op::SETITEM:
      return set(pop_n(2)), true;
    case Op::SETITEMS:
      return set(pop_to_mark()), true;
    default:
      return false;
  }
}

/// False if `op` is another instruction.
bool Machine::use_memo(Op op) {
  switch (op) {
    case Op::BINPUT:
      return put(number<uint8_t>()), true;
    case Op::LONG_BINPUT:
      return put(number<uint32_t>()), true;
    case Op::MEMOIZE:
      return put(static_cast<uint32_t>(memo_.size())), true;
    case Op::BINGET:
      return get(number<uint8_t>()), true;
    case Op::LONG_BINGET:
      return get(number<uint32_t>()), true;
    default:
      return false;
  }
}

void Machine::push_long(uint64_t size) {
  const auto bytes = take(size);
  if (size > 8) return push(Skipped{});  // such as the state of a random generator
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
  if (is_harmless(module, name)) return push(Skipped{});
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

void Machine::set(std::span<const Index> items) {
  if (items.size() % 2 != 0) fail("a key without a value");
  if (!stack_.empty() && std::holds_alternative<Skipped>(objects_[stack_.back()])) return;
  Dict& dict = top_as<Dict>("what items are set in");
  for (size_t i = 0; i < items.size(); i += 2) dict.items.emplace_back(items[i], items[i + 1]);
}

void Machine::append(std::span<const Index> items) {
  if (!stack_.empty() && std::holds_alternative<Skipped>(objects_[stack_.back()])) return;
  auto& list = top_as<List>("what is appended to").items;
  list.insert(list.end(), items.begin(), items.end());
}

/// An object's attributes: an OrderedDict carries module versions there, which say nothing to us.
void Machine::build() {
  const Index state = pop();
  if (!stack_.empty() && std::holds_alternative<Skipped>(objects_[stack_.back()])) return;
  as<Dict>(state, "the state of an object");
  top_as<Dict>("an object with state");
}

void Machine::reduce() {
  const Index arguments_at = pop();
  const Index function_at = pop();
  const Tuple arguments = as<Tuple>(arguments_at, "a function's arguments");
  if (std::holds_alternative<Skipped>(objects_[function_at])) return push(Skipped{});
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

}  // namespace vga::pickle
