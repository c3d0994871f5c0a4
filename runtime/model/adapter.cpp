#include "model/adapter.h"

#include <cmath>
#include <utility>

#include "base/text.h"
#include "model/families.h"
#include "vga/error.h"

namespace vga {
namespace {

constexpr std::string_view suffix_a = ".lora_a";
constexpr std::string_view suffix_b = ".lora_b";

}  // namespace

bool Adapter::is_adapter(const Gguf& file) {
  const GgufValue* type = file.find("general.type");
  return type != nullptr && type->type == GgufType::string &&
         file.string("general.type") == "adapter";
}

Adapter::Adapter(Gguf file) : file_(std::move(file)) {
  if (!is_adapter(file_)) {
    throw Error(file_.file_name(), "key 'general.type': wanted adapter, found " +
                                       (file_.find("general.type") == nullptr
                                            ? "none"
                                            : describe(*file_.find("general.type"))));
  }
  constexpr std::string_view family_key = "general.architecture";
  family_ = file_.required(family_key, file_.string(family_key));
  check_keys();
  alpha_ = static_cast<float>(file_.real("adapter.lora.alpha").value_or(0));
  if (!std::isfinite(alpha_)) {
    throw Error(file_.file_name(),
                "key 'adapter.lora.alpha': wanted a number, found " + std::to_string(alpha_));
  }
  gate_ = read_gate(file_, family_);
  for (const GgufTensor& tensor : file_.tensors()) {
    const std::string_view name = tensor.name;
    if (name.ends_with(suffix_a)) {
      add_update(name.substr(0, name.size() - suffix_a.size()));
    } else if (!name.ends_with(suffix_b)) {
      whole_.push_back(&tensor);
    } else if (const std::string a(name.substr(0, name.size() - suffix_b.size()));
               file_.find_tensor(a + std::string(suffix_a)) == nullptr) {
      throw Error(file_.file_name(), "tensor '" + a + std::string(suffix_a) +
                                         "' is missing beside '" + std::string(name) + "'");
    }
  }
}

/// A key that nobody reads may change what the adapter does.
void Adapter::check_keys() const {
  constexpr std::string_view type_key = "adapter.type";
  const std::string_view type = file_.required(type_key, file_.string(type_key));
  if (type != "lora") {
    throw Error(file_.file_name(),
                "key 'adapter.type': wanted lora, found '" + std::string(type) + "'");
  }
  const std::string gate_keys = family_ + ".attention.gate.";
  for (const auto& [key, value] : file_.values()) {
    const bool is_known =
        key == type_key || key.starts_with("adapter.lora.") || key.starts_with(gate_keys);
    if (!is_known && (key.starts_with("adapter.") || key.starts_with(family_ + "."))) {
      throw Error(file_.file_name(), "key '" + std::string(key) + "' is not known in an adapter");
    }
  }
}

void Adapter::add_update(std::string_view tensor) {
  const auto half = [&](std::string_view suffix) {
    const std::string name = std::string(tensor) + std::string(suffix);
    const std::string where = file_.file_name() + ": tensor '" + name + "'";
    const GgufTensor* found = file_.find_tensor(name);
    if (found == nullptr) throw Error(where, "is missing, half of an update");
    if (found->n_dims != 2) {
      throw Error(where, "wanted two dimensions, found " + bracketed(found->shape()));
    }
    if (!dtype_from_gguf(found->type)) {
      throw Error(where,
                  "wanted one of " + dtype_names() + ", found " + gguf_type_name(found->type));
    }
    return found;
  };
  const Update update{tensor, half(suffix_a), half(suffix_b)};
  if (update.rank() != update.b->dims[0] || update.rank() == 0 || update.rank() > max_width) {
    throw Error(
        file_.file_name() + ": tensor '" + std::string(tensor) + std::string(suffix_b) + "'",
        "wanted shape (outputs, rank) to '" + std::string(update.a->name) + "' " +
            bracketed(update.a->shape()) + ", found " + bracketed(update.b->shape()));
  }
  updates_.push_back(update);
}

float Adapter::scale_of(const Update& update) const {
  return alpha_ == 0 ? 1 : alpha_ / static_cast<float>(update.rank());
}

uint64_t Adapter::tensor_bytes() const {
  uint64_t bytes = 0;
  for (const GgufTensor& tensor : file_.tensors()) bytes += tensor.data.size();
  return bytes;
}

}  // namespace vga
