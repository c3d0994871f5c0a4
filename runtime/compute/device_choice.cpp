#include "compute/device_choice.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string>

#include "vga/error.h"

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

WantedDevice wanted_device(std::string_view option) {
  if (!option.empty()) return {std::string(option)};
  const char* wanted = std::getenv("VGA_DEVICE");
  if (wanted != nullptr && *wanted != '\0') return {wanted, "VGA_DEVICE"};
  return {"cpu"};
}

size_t choose_device(std::span<const DeviceInfo> devices, const WantedDevice& wanted) {
  const std::string_view name = wanted.name;
  constexpr std::string_view numbered = "vulkan:";
  if (name.starts_with(numbered)) {
    const std::string_view digits = name.substr(numbered.size());
    size_t index = devices.size();
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (error != std::errc() || end != digits.data() + digits.size() || index >= devices.size()) {
      throw Error(wanted.source, "wanted vulkan:0 to vulkan:" + std::to_string(devices.size() - 1) +
                                     ", found '" + wanted.name + "'; see --list-devices");
    }
    return usable(devices, index);
  }
  if (name != "vulkan" && name != "auto") {
    const std::string part = lower(name);
    const auto named = std::ranges::find_if(devices, [&](const DeviceInfo& d) {
      return lower(d.name).find(part) != std::string::npos;
    });
    if (part.empty() || named == devices.end()) {
      throw Error(wanted.source,
                  "no name of a device has '" + wanted.name +
                      "' in it; wanted cpu, auto, vulkan, vulkan:N or such a part, see "
                      "--list-devices");
    }
    return usable(devices, static_cast<size_t>(named - devices.begin()));
  }
  size_t best = devices.size();
  for (size_t i = 0; i < devices.size(); ++i) {
    if (!devices[i].unfit.empty()) continue;
    if (name == "auto" && devices[i].type == DeviceInfo::Type::cpu) continue;
    if (best == devices.size() || rank(devices[i]) < rank(devices[best])) best = i;
  }
  if (best == devices.size()) {
    throw Error(wanted.source, "no GPU that can be used; see --list-devices");
  }
  return best;
}

}  // namespace vga
