#include "inspect/adapter_report.h"

#include <algorithm>
#include <cstdio>
#include <ostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"

namespace vga {
namespace {

/// Tensors of all layers that have the same name in theirs.
struct Group {
  std::string name;  // "attn_q.weight", "output.weight"
  std::set<std::string> layers;
  size_t lowest_rank = 0;  // 0: no updates, the tensors themselves
  size_t highest_rank = 0;
};

Group& group_of(std::vector<Group>& groups, std::string_view tensor) {
  std::string layer;
  if (tensor.starts_with("blk.")) {
    const size_t dot = tensor.find('.', 4);
    layer = tensor.substr(0, dot);
    tensor.remove_prefix(dot == tensor.npos ? tensor.size() : dot + 1);
  }
  auto group = std::ranges::find(groups, tensor, &Group::name);
  if (group == groups.end()) group = groups.insert(groups.end(), {std::string(tensor), {}, 0, 0});
  if (!layer.empty()) group->layers.insert(layer);
  return *group;
}

std::vector<Group> updates_of(const Adapter& adapter) {
  std::vector<Group> groups;
  for (const Adapter::Update& update : adapter.updates()) {
    Group& group = group_of(groups, update.tensor);
    const size_t rank = update.rank();
    group.lowest_rank = group.lowest_rank == 0 ? rank : std::min(group.lowest_rank, rank);
    group.highest_rank = std::max(group.highest_rank, rank);
  }
  return groups;
}

std::vector<Group> whole_tensors_of(const Adapter& adapter) {
  std::vector<Group> groups;
  for (const GgufTensor* tensor : adapter.whole_tensors()) group_of(groups, tensor->name);
  return groups;
}

std::string layers_text(const Group& group) {
  if (group.layers.empty()) return "";
  return " in " + std::to_string(group.layers.size()) +
         (group.layers.size() == 1 ? " layer" : " layers");
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

}  // namespace

std::string gate_text(const AttentionGate& gate) {
  if (!gate) return "none (vanilla attention)";
  return "from the " + std::string(name(gate.source)) + ", on the " +
         std::string(name(gate.placement)) + ", one per " + std::string(name(gate.granularity)) +
         (gate.bias ? ", with bias" : ", without bias");
}

nlohmann::ordered_json gate_json(const AttentionGate& gate) {
  return {{"source", name(gate.source)},
          {"placement", name(gate.placement)},
          {"granularity", name(gate.granularity)},
          {"bias", gate.bias}};
}

void print_adapter(const Adapter& adapter, std::ostream& out) {
  out << "  adapter for " << printable(adapter.family()) << ", "
      << human_bytes(adapter.tensor_bytes()) << ", updates times "
      << (adapter.alpha() == 0 ? "1" : number(double{adapter.alpha()}) + " / rank") << '\n';
  for (const Group& group : updates_of(adapter)) {
    out << "    " << printable(group.name) << ": rank " << group.lowest_rank;
    if (group.highest_rank > group.lowest_rank) out << " to " << group.highest_rank;
    out << layers_text(group) << '\n';
  }
  for (const Group& group : whole_tensors_of(adapter)) {
    out << "    " << printable(group.name) << ": whole" << layers_text(group) << '\n';
  }
  if (adapter.gate()) out << "    attention gate: " << gate_text(adapter.gate()) << '\n';
}

nlohmann::ordered_json adapter_json(const Adapter& adapter) {
  using nlohmann::ordered_json;
  ordered_json out = {{"file", adapter.file().file_name()}, {"family", adapter.family()},
                      {"bytes", adapter.tensor_bytes()},    {"alpha", adapter.alpha()},
                      {"updates", ordered_json::array()},   {"whole", ordered_json::array()}};
  for (const Group& group : updates_of(adapter)) {
    out["updates"].push_back({{"tensor", group.name},
                              {"layers", group.layers.size()},
                              {"lowest_rank", group.lowest_rank},
                              {"highest_rank", group.highest_rank}});
  }
  for (const Group& group : whole_tensors_of(adapter)) {
    out["whole"].push_back({{"tensor", group.name}, {"layers", group.layers.size()}});
  }
  if (adapter.gate()) out["attention_gate"] = gate_json(adapter.gate());
  return out;
}

}  // namespace vga
