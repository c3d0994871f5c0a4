#include "vulkan/vulkan_products.h"

#include <algorithm>
#include <array>
#include <bit>

#include "vulkan/grid.h"

namespace vga::vulkan {
namespace {

constexpr uint32_t matvec_rows = 8;  // up to so many rows of x, weights are read once for all
constexpr uint32_t tile = 64;        // outputs of matmul's tiles, and most rows of them
constexpr uint32_t lane_rows = 16;   // rows of such a tile for each that a lane computes

/// What the shaders of a product are told; see product.glsl.
struct Push {
  uint32_t base, row_halves, cols, n_rows, first_output, n_outputs, out_cols,
      has_bias = 0, bias_base = 0, adds = 0;
  float scale = 1, cap = 0;
  uint32_t part_rows, n_used = 0, x_cols, first_tile_output = 0;
};

uint32_t row_halves(const Tensor& t) {
  return u32(row_bytes(t.type, t.cols) / 2);
}

/// Multiply-adds of an output for so many rows, or bytes where those take longer.
double output_cost(const Tensor& weight, size_t n_rows) {
  return static_cast<double>(
      std::max<uint64_t>(n_rows * weight.cols, row_bytes(weight.type, weight.cols)));
}

}  // namespace

/// Subgroups of a workgroup, or one team if those cannot be relied on.
uint32_t VulkanProducts::n_teams() const {
  const Limits& limits = device_.limits;
  return limits.subgroup_size > 1 ? limits.workgroup_size / limits.subgroup_size : 1;
}

void VulkanProducts::project(const Buffer& x, size_t n_rows, const Tensor& weight, Buffer& out,
                             const Finish& finish) {
  for (const Weight::Slice& slice : weight.on_device->slices) {
    project(x, n_rows, weight, slice, out, finish);
  }
}

void VulkanProducts::project(const Buffer& x, size_t all_rows, const Tensor& weight,
                             const Weight::Slice& slice, Buffer& out, const Finish& finish) {
  const BoundVector bias = bound(finish.bias);
  const bool few = all_rows <= matvec_rows;
  const size_t at_once = rows_at_once(device_.limits, out, all_rows);
  for (size_t row = 0; row < all_rows; row += at_once) {
    const size_t n_rows = std::min(at_once, all_rows - row);
    const double per_output = output_cost(weight, n_rows);
    const size_t outputs_at_once =
        std::max<size_t>(tile, static_cast<size_t>(commands_.max_cost / per_output) / tile * tile);
    const size_t team_outputs = n_rows > 4 ? 1 : 2;
    const Shader shader =
        few ? Shader{"matvec", weight.type, {u32(team_outputs), u32(std::bit_ceil(n_rows))}}
            : Shader{"matmul", weight.type, {tile / lane_rows}};
    const auto& kernel = pipeline(device_, shader, 4);
    for (size_t output = 0; output < slice.n_rows; output += outputs_at_once) {
      const size_t n_outputs = std::min(outputs_at_once, slice.n_rows - output);
      dispatch(commands_, kernel,
               {slice.range, on_device(x).rows_from(row, n_rows),
                range_of(finish.bias, slice.range), on_device(out).rows_from(row, n_rows)},
               Push{.base = u32(slice.base + output * row_halves(weight)),
                    .row_halves = row_halves(weight),
                    .cols = u32(x.cols()),
                    .n_rows = u32(n_rows),
                    .first_output = u32(slice.first_row + output),
                    .n_outputs = u32(n_outputs),
                    .out_cols = u32(out.cols()),
                    .has_bias = bias.present,
                    .bias_base = bias.base,
                    .adds = finish.adds ? 1u : 0u,
                    .scale = finish.scale,
                    .cap = finish.cap,
                    .part_rows = u32(n_outputs),
                    .x_cols = u32(x.cols())},
               few ? grid((n_outputs - 1) / (n_teams() * team_outputs) + 1)
                   : std::array<uint32_t, 3>{u32((n_outputs - 1) / tile + 1),
                                             u32((n_rows - 1) / tile + 1), 1},
               per_output * static_cast<double>(n_outputs));
    }
  }
}

void VulkanProducts::project_experts(const Buffer& x, size_t n_rows, const Buffer& routed,
                                     std::span<const ExpertProjection> projections) {
  const size_t n_used = routed.cols() / 2;
  size_t at_once = std::min(max_groups / n_used, rows_at_once(device_.limits, x, n_rows));
  for (const auto& [weight, out] : projections) {
    at_once = std::min(at_once, rows_at_once(device_.limits, out, n_rows));
  }
  if (at_once < n_rows) at_once = at_once / 8 * 8;
  for (size_t row = 0; row < n_rows; row += at_once) {
    const Rows rows = {x, routed, row, std::min(at_once, n_rows - row)};
    const Tensor& first = projections[0].weight;
    const size_t n_experts = first.rows / (projections[0].out.cols() / n_used);
    // An expert has few rows of its own, on average.
    const bool by_pair = rows.n * n_used <= matvec_rows * n_experts;
    if (!by_pair) group(rows, n_experts);
    for (const ExpertProjection& projection : projections) {
      for (const Weight::Slice& slice : projection.weight.on_device->slices) {
        if (by_pair) {
          project_pairs(rows, projection, slice);
        } else {
          project_groups(rows, projection, slice);
        }
      }
    }
  }
}

void VulkanProducts::group(const Rows& rows, size_t n_experts) {
  struct GroupPush {
    uint32_t n_rows, n_used, n_experts;
  };
  const uint64_t bytes = (n_experts + 1 + rows.n * rows.n_used()) * sizeof(uint32_t);
  if (groups_.bytes < bytes) {
    wait(commands_, submit(commands_));
    groups_ = Memory(device_, bytes, Memory::Kind::device, "rows by expert");
  }
  dispatch(commands_, pipeline(device_, {"group_rows"}, 2), {rows.of(rows.routed), whole(groups_)},
           GroupPush{u32(rows.n), u32(rows.n_used()), u32(n_experts)}, threads(n_experts),
           static_cast<double>(2 * rows.n * rows.n_used() * n_experts));
}

/// A workgroup along z for each row and each of its experts.
void VulkanProducts::project_pairs(const Rows& rows, const ExpertProjection& projection,
                                   const Weight::Slice& slice) {
  constexpr size_t team_outputs = 2;
  const auto& [weight, out] = projection;
  const size_t n_used = rows.n_used();
  const size_t n_outputs = out.cols() / n_used;
  const auto& kernel = pipeline(device_, {"matvec", weight.type, {u32(team_outputs), 1}}, 4);
  const double row_cost = output_cost(weight, 1) * static_cast<double>(n_used * n_outputs);
  const auto at_once =
      std::max<size_t>(8, static_cast<size_t>(commands_.max_cost / row_cost) / 8 * 8);
  for (size_t row = 0; row < rows.n; row += at_once) {
    const Rows part = {rows.x, rows.routed, rows.first + row, std::min(at_once, rows.n - row)};
    dispatch(commands_, kernel, {slice.range, part.of(rows.x), part.of(rows.routed), part.of(out)},
             Push{.base = slice.base,
                  .row_halves = row_halves(weight),
                  .cols = u32(weight.cols),
                  .n_rows = 1,
                  .first_output = slice.first_row,
                  .n_outputs = u32(n_outputs),
                  .out_cols = u32(out.cols()),
                  .part_rows = slice.n_rows,
                  .n_used = u32(n_used),
                  .x_cols = u32(rows.x.cols())},
             grid((n_outputs - 1) / (n_teams() * team_outputs) + 1, part.n * n_used),
             row_cost * static_cast<double>(part.n));
  }
}

/// A workgroup along z for each expert, in tiles that most experts' rows fit into.
void VulkanProducts::project_groups(const Rows& rows, const ExpertProjection& projection,
                                    const Weight::Slice& slice) {
  const auto& [weight, out] = projection;
  const size_t n_pairs = rows.n * rows.n_used();
  const size_t n_outputs = out.cols() / rows.n_used();
  const size_t n_experts = weight.rows / n_outputs;
  const size_t tile_rows =
      std::clamp<size_t>(std::bit_ceil(n_pairs * 3 / 2 / n_experts), lane_rows, tile);
  const auto& kernel = pipeline(device_, {"matmul", weight.type, {u32(tile_rows / lane_rows)}}, 4);
  // Each expert's last tile may be all but empty.
  const double per_output = output_cost(weight, n_pairs + n_experts * tile_rows / 2);
  const size_t outputs_at_once =
      std::max<size_t>(tile, static_cast<size_t>(commands_.max_cost / per_output) / tile * tile);
  for (size_t output = 0; output < n_outputs; output += outputs_at_once) {
    const size_t n = std::min(outputs_at_once, n_outputs - output);
    dispatch(commands_, kernel, {slice.range, rows.of(rows.x), whole(groups_), rows.of(out)},
             Push{.base = slice.base,
                  .row_halves = row_halves(weight),
                  .cols = u32(weight.cols),
                  .n_rows = u32(rows.n),
                  .first_output = slice.first_row,
                  .n_outputs = u32(n_outputs),
                  .out_cols = u32(out.cols()),
                  .part_rows = slice.n_rows,
                  .n_used = u32(rows.n_used()),
                  .x_cols = u32(rows.x.cols()),
                  .first_tile_output = u32(output)},
             {u32((n - 1) / tile + 1), u32((rows.n - 1) / tile_rows + 1), u32(n_experts)},
             per_output * static_cast<double>(n));
  }
}

}  // namespace vga::vulkan
