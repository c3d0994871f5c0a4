#include "device_choice.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string>

#include "error.h"

namespace vga {
namespace {

using vulkan::DeviceInfo;

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

/// The less, the better.
int rank(const DeviceInfo& device) {
  switch (device.type) {
    case DeviceInfo::Type::discrete:
      return 0;
    case DeviceInfo::Type::integrated:
      return 1;
    case DeviceInfo::Type::virtual_gpu:
    case DeviceInfo::Type::other:
      return 2;
    case DeviceInfo::Type::cpu:
      break;
  }
  return 3;
}

size_t usable(std::span<const DeviceInfo> devices, size_t index) {
  if (!devices[index].unfit.empty()) throw Error(devices[index].name, devices[index].unfit);
  return index;
}

}  // namespace

std::string default_device() {
  const char* wanted = std::getenv("VGA_DEVICE");
  return wanted == nullptr || *wanted == '\0' ? "cpu" : wanted;
}

size_t choose_device(std::span<const DeviceInfo> devices, std::string_view wanted,
                     std::string_view source) {
  constexpr std::string_view numbered = "vulkan:";
  if (wanted.starts_with(numbered)) {
    const std::string_view digits = wanted.substr(numbered.size());
    size_t index = devices.size();
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (error != std::errc() || end != digits.data() + digits.size() || index >= devices.size()) {
      throw Error(source, "wanted vulkan:0 to vulkan:" + std::to_string(devices.size() - 1) +
                              ", found '" + std::string(wanted) + "'; see --list-devices");
    }
    return usable(devices, index);
  }
  if (wanted != "vulkan" && wanted != "auto") {
    const std::string part = lower(wanted);
    const auto named = std::ranges::find_if(devices, [&](const DeviceInfo& d) {
      return lower(d.name).find(part) != std::string::npos;
    });
    if (part.empty() || named == devices.end()) {
      throw Error(source, "no name of a device has '" + std::string(wanted) +
                              "' in it; wanted cpu, auto, vulkan, vulkan:N or such a part, see "
                              "--list-devices");
    }
    return usable(devices, static_cast<size_t>(named - devices.begin()));
  }
  size_t best = devices.size();
  for (size_t i = 0; i < devices.size(); ++i) {
    if (!devices[i].unfit.empty()) continue;
    if (wanted == "auto" && devices[i].type == DeviceInfo::Type::cpu) continue;
    if (best == devices.size() || rank(devices[i]) < rank(devices[best])) best = i;
  }
  if (best == devices.size()) {
    throw Error(source, "no GPU that can be used; see --list-devices");
  }
  return best;
}

}  // namespace vga
