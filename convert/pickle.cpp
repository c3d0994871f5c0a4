#include "pickle.h"

#include <algorithm>
#include <array>
#include <set>

#include "pickle_machine.h"
#include "vga/error.h"

namespace vga {
namespace {

using pickle::Dict;
using pickle::Index;
using pickle::Machine;

/// Where programs that train put the weights, in the order in which we look.
constexpr std::array<std::string_view, 6> containers = {"model",  "state_dict", "model_state_dict",
                                                        "module", "net",        "ema"};
constexpr int max_dict_depth = 2;  // of containers in containers
constexpr size_t max_listed_keys = 12;

const std::string_view* text_of(const Machine& machine, Index i) {
  return std::get_if<std::string_view>(&machine.object(i));
}

/// The value of `key` in `dict`; the last one, as Python has it.
std::optional<Index> find(const Machine& machine, const Dict& dict, std::string_view key) {
  std::optional<Index> found;
  for (const auto& [name, value] : dict.items) {
    const auto* text = text_of(machine, name);
    if (text != nullptr && *text == key) found = value;
  }
  return found;
}

bool holds_tensors(const Machine& machine, const Dict& dict) {
  return std::ranges::any_of(dict.items, [&](const auto& item) {
    return std::holds_alternative<pickle::Tensor>(machine.object(item.second));
  });
}

/// "'epoch', 'optimizer', 3 more", for messages.
std::string list_keys(const Machine& machine, const Dict& dict) {
  std::string keys;
  size_t n = 0;
  for (const auto& [key, value] : dict.items) {
    if (n++ >= max_listed_keys) continue;
    const auto* text = text_of(machine, key);
    keys += (keys.empty() ? "'" : ", '") +
            (text != nullptr ? std::string(text->substr(0, 40)) : std::string(machine.kind(key))) +
            "'";
  }
  if (n > max_listed_keys) keys += ", " + std::to_string(n - max_listed_keys) + " more";
  return keys.empty() ? "none" : keys;
}

std::string describe_dict(const Machine& machine, const Dict& dict) {
  if (find(machine, dict, "param_groups") && find(machine, dict, "state")) {
    return "holds the state of an optimizer, no weights";
  }
  std::string known;
  for (const std::string_view name : containers) {
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  return "no tensors, nor a dict of them under " + known +
         "; its keys: " + list_keys(machine, dict);
}

/// The dict of tensors in a known container, or else `dict` itself; null if neither has any. A
/// checkpoint's own tensors, such as the state of a random generator, are no weights.
const Dict* find_tensors(const Machine& machine, const Dict& dict, int depth = 0) {
  for (const std::string_view name : containers) {
    const auto value = depth < max_dict_depth ? find(machine, dict, name) : std::nullopt;
    const auto* inner = value ? std::get_if<Dict>(&machine.object(*value)) : nullptr;
    const auto* found = inner != nullptr ? find_tensors(machine, *inner, depth + 1) : nullptr;
    if (found != nullptr) return found;
  }
  return holds_tensors(machine, dict) ? &dict : nullptr;
}

const Dict& find_state(const Machine& machine, Index root, std::string_view where) {
  const auto* dict = std::get_if<Dict>(&machine.object(root));
  if (dict == nullptr) {
    throw Error(where, "wanted a dict of tensors, found " + std::string(machine.kind(root)));
  }
  const Dict* found = find_tensors(machine, *dict);
  if (found == nullptr) throw Error(where, describe_dict(machine, *dict));
  return *found;
}

PickledTensor described(const Machine& machine, const pickle::Tensor& tensor) {
  const auto& storage = std::get<pickle::Storage>(machine.object(tensor.storage));
  const pickle::StorageType& type = *storage.type;
  return {std::string(type.name),
          type.type,
          std::string(*text_of(machine, storage.key)),
          storage.elements * type.bytes,
          tensor.offset * type.bytes,
          tensor.shape,
          tensor.strides};
}

}  // namespace

std::vector<NamedTensor> parse_pickled_state(std::span<const std::byte> pickle,
                                             std::string_view where) {
  Machine machine(pickle, where);
  const Index root = machine.run();
  std::vector<NamedTensor> tensors;
  std::set<std::string_view> names;
  for (const auto& [key, value] : find_state(machine, root, where).items) {
    const auto* tensor = std::get_if<pickle::Tensor>(&machine.object(value));
    if (tensor == nullptr) continue;  // a step, a version
    const auto* name = text_of(machine, key);
    if (name == nullptr) {
      throw Error(where, "a key of the state dict is " + std::string(machine.kind(key)) +
                             ", wanted a tensor's name");
    }
    if (!names.insert(*name).second) {
      throw Error(where, "tensor '" + std::string(*name) + "' is there twice");
    }
    tensors.push_back({std::string(*name), described(machine, *tensor)});
  }
  return tensors;
}

}  // namespace vga
