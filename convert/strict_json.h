#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace vga {

/// JSON from outside. What nlohmann-json would take silently is an Error naming `where` and the
/// place: a key twice in one object (it keeps the last), NUL as an early end, nesting deeper than
/// 64, more than `max_values`.
nlohmann::json parse_json(std::span<const std::byte> bytes, std::string_view where,
                          size_t max_values = 1 << 20);

/// The same for what Python's json.dump writes: NaN, Infinity and -Infinity are taken as the
/// strings "NaN", "Infinity" and "-Infinity", which are no numbers to whoever wants one.
nlohmann::json parse_python_json(std::span<const std::byte> bytes, std::string_view where);

/// The non-negative integer in `value`; an Error naming `where` for anything else: negative,
/// fractional, 1e3, too large for 64 bits.
uint64_t json_integer(const nlohmann::json& value, std::string_view where);

/// `value` in a few words, for messages.
std::string describe_json(const nlohmann::json& value);

}  // namespace vga
