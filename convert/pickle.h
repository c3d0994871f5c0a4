#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vga/dtype.h"

namespace vga {

/// A tensor as the pickle of a torch.save file describes it. Its elements lie in another file of
/// the archive, `data/<storage>`. View and storage are already checked against each other.
struct PickledTensor {
  std::string storage_type;   // "FloatStorage"
  std::optional<DType> type;  // nullopt for types weights do not come in
  std::string storage;        // key of the storage
  uint64_t storage_bytes;     // what the storage must measure
  uint64_t offset;            // of the first element, in bytes
  std::vector<uint64_t> shape;
  std::vector<uint64_t> strides;  // in elements
};

struct NamedTensor {
  std::string name;
  PickledTensor tensor;
};

/// The state dict in a pickle that torch.save wrote: the pickled dictionary itself, or the one
/// under its key "model", "state_dict", "model_state_dict", "module", "net" or "ema". What in it is
/// no tensor is left out; a pickle without tensors is an Error that lists its keys.
///
/// A pickle is a program. This machine knows the instructions that state dicts and plain values are
/// made of, and as functions only those that rebuild tensors; it runs nothing else. What training
/// programs keep beside the weights (numpy scalars, sets, namespaces, dtypes) is skipped without
/// being built, and what it does not know is an Error naming `where`, the instruction or global,
/// and the offset.
std::vector<NamedTensor> parse_pickled_state(std::span<const std::byte> pickle,
                                             std::string_view where);

}  // namespace vga
