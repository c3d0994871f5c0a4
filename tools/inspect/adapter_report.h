#pragma once

#include <iosfwd>

#include <nlohmann/json.hpp>

#include "model/adapter.h"

namespace vga {

/// "from the value, on the output, one per head, with bias".
std::string gate_text(const AttentionGate& gate);
nlohmann::ordered_json gate_json(const AttentionGate& gate);

/// What an adapter changes, a line for each kind of weight.
void print_adapter(const Adapter& adapter, std::ostream& out);
/// The same.
nlohmann::ordered_json adapter_json(const Adapter& adapter);

}  // namespace vga
