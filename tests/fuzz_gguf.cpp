/// Any bytes as a GGUF file: opened, described, bound as a model or read as an adapter. Only
/// vga::Error may come out.

#include <string_view>
#include <utility>

#include "gguf/gguf.h"
#include "model/adapter.h"
#include "model/families.h"
#include "model/weights.h"
#include "scratch_file.h"
#include "vga/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    vga::Gguf gguf = vga::Gguf::open(vga::test::scratch_file(bytes));
    for (const auto& [key, value] : gguf.values()) {
      vga::describe(value);
      if (value.element == vga::GgufType::string && value.type == vga::GgufType::array) {
        gguf.strings(key);
      }
    }
    // Touch the first and last byte of everything that claims to lie in the file.
    volatile unsigned sum = 0;
    for (const vga::GgufTensor& tensor : gguf.tensors()) {
      if (tensor.data.empty()) continue;
      sum = sum + static_cast<unsigned>(tensor.data.front()) +
            static_cast<unsigned>(tensor.data.back());
    }
    if (vga::Adapter::is_adapter(gguf)) {
      const vga::Adapter adapter(std::move(gguf));
      for (const vga::Adapter::Update& update : adapter.updates())
        sum = sum + static_cast<unsigned>(update.rank());
    } else {
      vga::bind_weights(gguf, vga::read_config(gguf));
    }
  } catch (const vga::Error&) {
  }
  return 0;
}
